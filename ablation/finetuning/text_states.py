"""Hidden states of different texts, and how far those of each text have come."""

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ablation.system.errors import logger
from ablation.system.machine import free_bytes
from ablation.system.parallel import largest, place

# A text's token ids as bytes, the highest first: so texts in order stand just before those that
# begin with them.
TOKEN = np.dtype(">u4")


def pad_rows(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (B, T) of the states of B texts, the last repeated, and which are no repetition."""
    positions = torch.arange(int(lengths.max()))
    rows = starts[:, None] + torch.minimum(positions, lengths[:, None] - 1)
    return rows, positions < lengths[:, None]


@dataclass(frozen=True)
class StatesCost:
    """What hidden states cost."""

    seconds: float = 0.0  # spent on them here
    stored_seconds: float = 0.0  # that those which were in a store had taken, elsewhere
    n_found: int = 0  # there, one a position
    n_computed: int = 0

    def plus(
        self, seconds: float, stored_seconds: float, n_found: int, n_computed: int
    ) -> "StatesCost":
        """The cost after more was done for the same states. The counts are those of the last time
        that any were missing."""
        counts = n_found, n_computed
        if not any(counts):
            counts = self.n_found, self.n_computed
        return StatesCost(self.seconds + seconds, self.stored_seconds + stored_seconds, *counts)


class TextStates:
    """The hidden states of N texts, R in all, text after text.

    Args:
        texts: the token ids of each, as ``TOKEN`` has them.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = texts
        self.lengths = torch.tensor([len(text) // TOKEN.itemsize for text in texts])  # (N,)
        self.starts = self.lengths.cumsum(0) - self.lengths  # (N,): the first row of each
        self.n_blocks = torch.zeros_like(self.lengths)  # (N,): that each text's states passed
        self.seconds = torch.zeros(len(self))  # (R,): what each took, wherever it was computed
        self.values: Tensor | None = None  # (R, D); none before they have room

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def tokens(self, numbers: Tensor) -> Tensor:
        """The token ids (B, T), int64, of some texts (B,)."""
        ids = (np.frombuffer(self.texts[i], TOKEN).astype(np.int64) for i in numbers)
        return pad_sequence([torch.from_numpy(own) for own in ids], batch_first=True)

    def rows(self, numbers: Tensor) -> Tensor:
        """The rows of the states of some texts (B,), text after text."""
        rows, is_own = pad_rows(self.starts[numbers], self.lengths[numbers])
        return rows[is_own]

    def put(self, numbers: Tensor, values: Tensor, n_blocks: int, seconds: Tensor) -> None:
        """Take in the states (r, D) of some texts (B,) after so many blocks, and what each took."""
        rows = self.rows(numbers)
        self.n_blocks[numbers] = 0  # should this stop in the middle
        self.values[rows.to(self.values.device)] = values.to(self.values)
        self.seconds[rows] = seconds
        self.n_blocks[numbers] = n_blocks

    def forget(self, which: Tensor) -> None:
        """Drop the states of the texts where ``which`` (N,) is true."""
        self.n_blocks[which] = 0
        self.seconds[which.repeat_interleave(self.lengths)] = 0

    def windows(self, n_states: int) -> Iterator[tuple[Tensor, "TextStates"]]:
        """The numbers (B,) of texts that have so many states together, and what holds these: itself
        if that is all, and else others, texts of similar length together."""
        if len(self) <= n_states:
            yield torch.arange(len(self.texts)), self
            return
        order = self.lengths.argsort(stable=True)
        window = (self.lengths[order].cumsum(0) - 1) // n_states
        for numbers in order.split(window.unique_consecutive(return_counts=True)[1].tolist()):
            yield numbers, TextStates([self.texts[i] for i in numbers])

    def make_room(self, like: Tensor, memory: float | None) -> bool:
        """Have room for them, in memory or on disk, unless it is there; false if there is none.

        Args:
            like: has their width D in its second place, their dtype, and the device to prefer.
            memory: GB that they may take in memory; by default half of what is free.
        """
        if self.values is None:
            self.values = _allocate((len(self), like.shape[1]), like, memory)
        return self.values is not None


def _allocate(shape: tuple[int, int], like: Tensor, memory: float | None) -> Tensor | None:
    """Room for states: on the device of ``like``, in memory, on disk, or none."""
    n_bytes = shape[0] * shape[1] * like.element_size()
    devices = list(dict.fromkeys((like.device, torch.device("cpu"))))
    budgets = [free_bytes(d) / 2 if memory is None else memory * 1e9 for d in devices]
    free_on_disk = shutil.disk_usage(tempfile.gettempdir()).free // place().n_local
    room = [*budgets, free_on_disk, math.inf]
    # The first place with room; in several processes, one that has it in all of them.
    choice = largest(next(i for i, n_free in enumerate(room) if n_bytes <= n_free))
    if choice < len(devices):
        return like.new_empty(shape, device=devices[choice])
    need = f"Hidden states take {n_bytes / 1e9:.1f} GB, more than the {budgets[-1] / 1e9:.1f} GB"
    if choice > len(devices):
        logger.warning("%s that they may take; computing them at every step instead", need)
        return None
    logger.warning("%s of memory that they may take (--feature_memory); keeping them on disk", need)
    # The folder goes at once where a mapped file may be deleted, and at the latest on exit.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = f"{folder}/states"
        flat = torch.from_file(path, shared=True, size=shape[0] * shape[1], dtype=like.dtype)
        return flat.view(shape)
