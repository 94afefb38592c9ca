"""Hidden states below the first trainable block, computed once.

Without dropout, what the frozen blocks at the bottom of a model make of a text never changes:
it is computed here, in large batches and without autograd, and training runs on top of it.
Texts are cut to the positions that decide what is read of them, equal texts are computed once,
and texts of different lengths are never padded to more than their neighbours in length.
"""

from __future__ import annotations

import copy
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ablation.classifier.build import (
    autocast,
    may_merge,
    needed_positions,
    read_positions,
    takes_fast_path,
)
from ablation.config.options import ExperimentConfig
from ablation.system.errors import HiddenStateError
from ablation.system.machine import free_bytes
from ablation.system.parallel import largest, map_rows, place, share_tensor, size
from ablation.system.progress import Progress, follow
from data_utils import PARTS, Batch, EncodedTexts, Splits
from gpt_model import GPTModel

logger = logging.getLogger("experiments")

# Tokens in a batch of the frozen part. On a CPU its activations should stay in the cache; on a
# GPU a batch should fill it.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
READ_AT_ONCE = 32  # texts whose states are read at one position


@dataclass(frozen=True)
class HiddenStates(Dataset):
    """N texts as the hidden states that the first ``n_blocks`` blocks made of them.

    Text i has ``n_states[i]`` states, from row ``starts[i]`` of ``states`` (rows, D). A list of
    indices gives their :class:`Batch`, which repeats the last state of the shorter texts.
    """

    states: Tensor
    starts: Tensor  # (N,) int64
    n_states: Tensor  # (N,) int64
    lengths: Tensor  # (N,) int64
    padded_lengths: Tensor  # (N,) int64
    labels: Tensor  # (N,) int64
    n_blocks: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        n_states = self.n_states[indices]
        positions = torch.arange(int(n_states.max()))
        positions = torch.minimum(positions, n_states[:, None] - 1)  # (B, T)
        rows = (self.starts[indices][:, None] + positions).to(self.states.device)
        return Batch(
            self.states[rows],
            self.lengths[indices],
            self.padded_lengths[indices],
            self.labels[indices],
            self.n_blocks,
        )


def prepare_inputs(
    model: GPTModel,
    texts: Splits[EncodedTexts],
    config: ExperimentConfig,
    prefix: FrozenPrefix | None = None,
) -> Splits[Dataset]:
    """What training and evaluation run on, chosen by what is frozen and what is read.

    Where nothing may be reused, the texts as they are; otherwise the hidden states below the
    first trainable block, or, if there is no frozen block, the texts' needed tokens.

    Args:
        prefix: shared with other experiments, whose states serve this one as well.

    Raises:
        HiddenStateError: a hidden state is not finite.
    """
    if not takes_fast_path(model, config):
        return texts
    needed = texts.map(partial(cut_texts, config=config))
    if not count_frozen_blocks(model):
        return needed
    return (prefix or FrozenPrefix([needed])).states(model, needed, config) or needed


def count_frozen_blocks(model: GPTModel) -> int:
    """How many blocks, from the first on, have nothing trainable in or below them."""
    modules = (model.token_embedding, model.position_embedding, *model.blocks)
    for i, module in enumerate(modules):
        if any(parameter.requires_grad for parameter in module.parameters()):
            return max(0, i - 2)
    return len(model.blocks)


def cut_texts(texts: EncodedTexts, config: ExperimentConfig) -> EncodedTexts:
    """The same texts, of which only the needed positions go into batches."""
    texts = copy.copy(texts)
    texts.n_inputs = needed_positions(texts.lengths, texts.padded_lengths, config)
    return texts


class FrozenPrefix:
    """The states after the frozen blocks, for one or more experiments on the same messages.

    The experiments have weights, mask and context length in common. Of each message, as many
    positions are computed as the most demanding of them needs: under the causal mask, the states
    of the others are the first of these. Experiments that freeze more blocks take the states
    further, in place, so those that freeze fewer should come first.

    Args:
        needs: the texts of each experiment, cut to their needed positions.
    """

    def __init__(self, needs: Sequence[Splits[EncodedTexts]]) -> None:
        different: dict[tuple[int, ...], int] = {}  # token ids -> number
        self._numbers = Splits(
            *(_number([getattr(texts, part) for texts in needs], different) for part in PARTS)
        )
        self._texts = list(different)
        self._n_states = torch.tensor([len(ids) for ids in self._texts])
        self._starts = self._n_states.cumsum(0) - self._n_states
        self._states: Tensor | None = None  # (rows, D)
        self._n_blocks = 0  # that made them
        self.seconds = 0.0  # that they took

    @property
    def n_states(self) -> int:
        """How many positions are computed, of all different texts."""
        return int(self._n_states.sum())

    def states(
        self, model: GPTModel, needed: Splits[EncodedTexts], config: ExperimentConfig
    ) -> Splits[HiddenStates] | None:
        """The states of one experiment's texts after its frozen blocks; none if nothing fits."""
        # Where even the last block is frozen, only the position that is read is kept.
        reads_one = (
            count_frozen_blocks(model) == len(model.blocks) and not config.average_embeddings
        )
        n_blocks = count_frozen_blocks(model) - int(reads_one)
        if self._n_blocks != n_blocks and not self._advance(model, n_blocks, config):
            return None

        def view(part: str) -> HiddenStates:
            number, texts = getattr(self._numbers, part), getattr(needed, part)
            return HiddenStates(
                states=self._states,
                starts=self._starts[number],
                n_states=texts.n_inputs,
                lengths=texts.lengths,
                padded_lengths=texts.padded_lengths,
                labels=texts.labels,
                n_blocks=n_blocks,
            )

        views = Splits(*map(view, PARTS))
        if reads_one:
            views = views.map(lambda part: _run_last_block(model, part, config))
        return views

    @torch.no_grad()
    def _advance(self, model: GPTModel, n_blocks: int, config: ExperimentConfig) -> bool:
        """Take the states through the blocks up to ``n_blocks``; false if nothing holds them."""
        started = time.perf_counter()
        start = self._n_blocks if self._n_blocks < n_blocks else 0
        self._n_blocks = 0  # should this stop in the middle, nothing is left to go on from
        if self._states is None:
            self._states = _allocate(self.n_states, model, config)
        if self._states is None:
            return False
        model.eval()
        with Progress("hidden states", "texts", len(self._texts)) as progress:
            for batch, states in self._run_batches(model, start, n_blocks, config):
                if not torch.isfinite(states).all():
                    tokens = self._tokens(batch).to(model.device)
                    raise HiddenStateError(_name_first_block(model, tokens, config))
                self._states[self._rows(batch)] = states
                progress.update(len(batch))
        self._n_blocks = n_blocks
        self.seconds += time.perf_counter() - started
        return True

    def _run_batches(
        self, model: GPTModel, start: int, stop: int, config: ExperimentConfig
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of texts, and what :meth:`_run_batch` made of each. Several processes compute
        one each at a time, and give it to the others."""
        batches = batch_by_length(self._n_states.tolist(), model.device, config)
        rank, n_dims = place().rank, self._states.shape[1]
        while group := list(islice(batches, size())):
            if rank < len(group):
                own = self._run_batch(model, group[rank], start, stop, config)
            for owner, batch in enumerate(group):
                n_rows = int(self._n_states[batch].sum())
                states = own if owner == rank else self._states.new_empty(n_rows, n_dims)
                yield batch, share_tensor(states, owner)

    def _run_batch(
        self, model: GPTModel, batch: list[int], start: int, stop: int, config: ExperimentConfig
    ) -> Tensor:
        """The states (rows, D) of a batch's texts before block ``stop``, text after text."""
        n_states = self._n_states[batch]
        with autocast(model, config):
            if start:
                before = self._states[self._rows(batch)].split(n_states.tolist())
                hidden = pad_sequence(before, batch_first=True).to(model.device)
            else:
                hidden = model.embed(self._tokens(batch).to(model.device))
            hidden = model.run_blocks(hidden, start=start, stop=stop)
        is_needed = torch.arange(hidden.shape[1]) < n_states[:, None]  # (B, T)
        return hidden[is_needed.to(hidden.device)].to(self._states)

    def _tokens(self, batch: list[int]) -> Tensor:
        """The token ids (B, T) of a batch's texts."""
        return pad_sequence([torch.tensor(self._texts[i]) for i in batch], batch_first=True)

    def _rows(self, batch: list[int]) -> Tensor:
        """Where the states of a batch's texts are, text after text."""
        places = zip(self._starts[batch].tolist(), self._n_states[batch].tolist(), strict=True)
        rows = torch.cat([torch.arange(start, start + length) for start, length in places])
        return rows.to(self._states.device)


def _number(needs: Sequence[EncodedTexts], different: dict[tuple[int, ...], int]) -> Tensor:
    """The number (N,) of each text, as long as any needs it, among the different ones, which
    are added to."""
    longest = torch.stack([texts.n_inputs for texts in needs]).argmax(dim=0).tolist()
    keys = (
        tuple(needs[which].tokens[i, : needs[which].n_inputs[i]].tolist())
        for i, which in enumerate(longest)
    )
    return torch.tensor([different.setdefault(key, len(different)) for key in keys])


@torch.no_grad()
def _run_last_block(
    model: GPTModel, states: HiddenStates, config: ExperimentConfig
) -> HiddenStates:
    """The last block's state of each text at the position that is read, and no other."""

    def read(batch: Batch) -> Tensor:
        with autocast(model, config):
            at = read_positions(batch.lengths, batch.padded_lengths, config)
            hidden = model.run_blocks(batch.inputs, start=batch.n_blocks, at=at)  # (B, 1, D)
        return hidden[:, 0]

    groups = torch.arange(len(states)).split(READ_AT_ONCE if may_merge(config) else size())
    batches = (states.__getitems__(indices.tolist()) for indices in groups)
    batches = follow(batches, "last block", "batches", len(groups), leave=False)
    rows = torch.cat([map_rows(read, batch.to(model.device)) for batch in batches])
    if not torch.isfinite(rows).all():
        raise HiddenStateError(_describe_first_block(len(model.blocks), model, config))
    one = torch.ones_like(states.lengths)
    return HiddenStates(rows, one.cumsum(0) - 1, one, one, one, states.labels, states.n_blocks + 1)


def batch_by_length(
    lengths: Sequence[int], device: torch.device, config: ExperimentConfig
) -> Iterator[list[int]]:
    """Numbers of texts in batches of similar length; of equal length where every token sees
    every other, padding included."""
    limit = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    limit = min(limit, -(-sum(lengths) // size()))  # so that each process has one
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[i]
        is_full = (len(batch) + 1) * length > limit
        if batch and (is_full or (config.disable_causal_mask and length > lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _allocate(n_rows: int, model: GPTModel, config: ExperimentConfig) -> Tensor | None:
    """Room (n_rows, D) for the states: on the model's device, in memory, on disk, or none."""
    like = model.token_embedding.weight
    shape = (n_rows, like.shape[1])
    n_bytes = shape[0] * shape[1] * like.element_size()
    devices = list(dict.fromkeys((model.device, torch.device("cpu"))))
    budgets = [
        free_bytes(device) / 2 if config.feature_memory is None else config.feature_memory * 1e9
        for device in devices
    ]
    free_on_disk = shutil.disk_usage(tempfile.gettempdir()).free // place().local_size
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


def _name_first_block(model: GPTModel, tokens: Tensor, config: ExperimentConfig) -> str:
    hidden = model.embed(tokens)
    with autocast(model, config):
        for number in range(len(model.blocks)):
            if not torch.isfinite(hidden).all():
                break
            hidden = model.run_blocks(hidden, start=number, stop=number + 1)
        else:
            number += 1
    return _describe_first_block(number, model, config)


def _describe_first_block(number: int, model: GPTModel, config: ExperimentConfig) -> str:
    place = f"after block {number} of {len(model.blocks)}" if number else "after the embedding"
    return (
        f"Hidden states are not finite {place}: the weights, or --precision {config.precision}, "
        "are not fit for this. Get the weights again, or take --precision fp32."
    )
