"""Hidden states below the first trainable block, computed once.

Without dropout, what the frozen blocks at the bottom of a model make of a text never changes:
it is computed here, in large batches and without autograd, and training runs on top of it.
Texts are cut to the positions that their logits depend on, equal texts are computed once,
and texts of different lengths are never padded to more than their neighbours in length.
"""

import copy
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ablation.classifier.build import Classifier, Reading
from ablation.system.errors import HiddenStateError, logger
from ablation.system.machine import free_bytes
from ablation.system.parallel import largest, map_rows, place, share_tensor, size
from ablation.system.progress import Progress, follow
from data_utils import PARTS, Batch, EncodedTexts, LabelledTexts, Splits
from gpt_model import GPTModel

# Tokens in a batch of the frozen part. On a CPU its activations should stay in the cache; on a
# GPU a batch should fill it.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
READ_AT_ONCE = 32  # texts whose states are read at one position


@dataclass(frozen=True)
class HiddenStates(LabelledTexts):
    """N texts as the hidden states that the first ``n_blocks`` blocks made of them.

    Text i has ``n_states[i]`` states, from row ``starts[i]`` of ``states`` (rows, D).
    """

    states: Tensor
    starts: Tensor  # (N,) int64
    n_states: Tensor  # (N,) int64
    lengths: Tensor
    padded_lengths: Tensor
    labels: Tensor
    n_blocks: int

    def inputs(self, indices: list[int]) -> Tensor:
        """States (B, T, D), the last of the shorter texts repeated."""
        rows, _ = _state_rows(self.starts[indices], self.n_states[indices])
        return self.states[rows.to(self.states.device)]


def _state_rows(starts: Tensor, n_states: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (B, T) of the states of B texts, the last repeated, and which are no repetition."""
    positions = torch.arange(int(n_states.max()))
    rows = starts[:, None] + torch.minimum(positions, n_states[:, None] - 1)
    return rows, positions < n_states[:, None]


def prepare_inputs(
    classifier: Classifier,
    texts: Splits[EncodedTexts],
    memory: float | None = None,
    prefix: "FrozenPrefix | None" = None,
) -> Splits[LabelledTexts]:
    """What training and evaluation run on, chosen by what is frozen and what is read.

    Where nothing may be reused, the texts as they are; otherwise the hidden states below the
    first trainable block, or, if there is no frozen block, the texts' needed tokens.

    Args:
        memory: GB that hidden states may take before they go to disk; by default half of what
            is free.
        prefix: shared with other experiments, whose states serve this one as well.

    Raises:
        HiddenStateError: a hidden state is not finite.
    """
    if not classifier.reuses_work:
        return texts
    needed = cut_splits(texts, classifier.reading)
    if not count_frozen_blocks(classifier.gpt):
        return needed
    return (prefix or FrozenPrefix([needed])).states(classifier, needed, memory) or needed


def count_frozen_blocks(gpt: GPTModel) -> int:
    """How many blocks, from the first on, have nothing trainable in or below them."""
    modules = (gpt.token_embedding, gpt.position_embedding, *gpt.blocks)
    for i, module in enumerate(modules):
        if any(parameter.requires_grad for parameter in module.parameters()):
            return max(0, i - 2)
    return len(gpt.blocks)


def cut_texts(texts: EncodedTexts, reading: Reading) -> EncodedTexts:
    """The same texts, of which only the needed positions go into batches."""
    texts = copy.copy(texts)
    texts.n_inputs = reading.n_needed(texts)
    return texts


def cut_splits(texts: Splits[EncodedTexts], reading: Reading) -> Splits[EncodedTexts]:
    """:func:`cut_texts` for each part."""
    return texts.map(lambda part: cut_texts(part, reading))


class FrozenPrefix:
    """The states after the frozen blocks, for one or more experiments on the same messages.

    The experiments have weights, mask and context length in common. Of each message, as many
    positions are computed as the most demanding of them needs: under the causal mask, the states
    of the others are the first of these. Experiments that freeze more blocks take the states
    further, in place, so those that freeze fewer should come first.

    It can be sent to another process, states included.

    Args:
        needs: the texts of each experiment, cut to their needed positions.
        key: what the states follow from: those with an equal key are equal.
    """

    def __init__(self, needs: Sequence[Splits[EncodedTexts]], key: object = None) -> None:
        numbers: dict[tuple[int, ...], int] = {}  # of different texts, by their token ids
        self._numbers = Splits(
            *(_number([getattr(texts, part) for texts in needs], numbers) for part in PARTS)
        )
        self._texts = list(numbers)
        self._n_states = torch.tensor([len(ids) for ids in self._texts])
        self._starts = self._n_states.cumsum(0) - self._n_states
        self._states: Tensor | None = None  # (rows, D)
        self._n_blocks = 0  # that made them
        self.key = key
        self.seconds = 0.0  # that they took

    @property
    def n_states(self) -> int:
        """How many positions are computed, of all different texts."""
        return int(self._n_states.sum())

    def states(
        self, classifier: Classifier, needed: Splits[EncodedTexts], memory: float | None = None
    ) -> Splits[HiddenStates] | None:
        """The states of one experiment's texts after its frozen blocks; none if nothing fits."""
        n_blocks = count_frozen_blocks(classifier.gpt)
        # Where even the last block is frozen, only the position that is read is kept.
        reads_one = n_blocks == len(classifier.gpt.blocks) and not classifier.reading.average
        n_blocks -= int(reads_one)
        if self._n_blocks != n_blocks and not self._advance(classifier, n_blocks, memory):
            return None

        def view(number: Tensor, texts: EncodedTexts) -> HiddenStates:
            own = (texts.n_inputs, texts.lengths, texts.padded_lengths, texts.labels)
            states = HiddenStates(self._states, self._starts[number], *own, n_blocks)
            return _run_last_block(classifier, states) if reads_one else states

        return Splits(*map(view, vars(self._numbers).values(), vars(needed).values()))

    @torch.no_grad()
    def _advance(self, classifier: Classifier, stop: int, memory: float | None) -> bool:
        """Take the states through the blocks up to ``stop``; false if nothing holds them."""
        started = time.perf_counter()
        start = self._n_blocks if self._n_blocks < stop else 0
        self._n_blocks = 0  # should this stop in the middle, nothing is left to go on from
        if self._states is None:
            self._states = _allocate(self.n_states, classifier.gpt, memory)
        if self._states is None:
            return False
        classifier.eval()
        rank, width = place().rank, self._states.shape[1]
        batches = batch_by_length(self._n_states.tolist(), classifier)
        with Progress("hidden states", "texts", len(self._texts)) as progress:
            # Several processes compute a batch each at a time, and give it to the others.
            while group := list(islice(batches, size())):
                if rank < len(group):
                    own = self._run_batch(classifier, group[rank], start, stop)
                for owner, batch in enumerate(group):
                    rows, is_own = _state_rows(self._starts[batch], self._n_states[batch])
                    rows = rows[is_own].to(self._states.device)
                    new = own if owner == rank else self._states.new_empty(len(rows), width)
                    self._states[rows] = share_tensor(new, owner)
                    if not torch.isfinite(new).all():
                        raise _not_finite(classifier, self._tokens(batch), stop)
                    progress.update(len(batch))
        self._n_blocks = stop
        self.seconds += time.perf_counter() - started
        return True

    def _run_batch(self, classifier: Classifier, batch: list[int], start: int, stop: int) -> Tensor:
        """The states (rows, D) of a batch's texts before block ``stop``, text after text."""
        rows, is_own = _state_rows(self._starts[batch], self._n_states[batch])
        inputs = self._states[rows.to(self._states.device)] if start else self._tokens(batch)
        hidden = classifier.run_blocks(inputs.to(classifier.device), start, stop)
        return hidden[is_own.to(hidden.device)].to(self._states)

    def _tokens(self, batch: list[int]) -> Tensor:
        """The token ids (B, T) of a batch's texts."""
        return pad_sequence([torch.tensor(self._texts[i]) for i in batch], batch_first=True)


def _number(needs: Sequence[EncodedTexts], numbers: dict[tuple[int, ...], int]) -> Tensor:
    """The number (N,) of each text, cut to the longest that is needed of it; texts that are new
    are added to ``numbers``."""
    longest = torch.stack([texts.n_inputs for texts in needs]).argmax(dim=0).tolist()
    keys = (
        tuple(needs[which].tokens[i, : needs[which].n_inputs[i]].tolist())
        for i, which in enumerate(longest)
    )
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


@torch.no_grad()
def _run_last_block(classifier: Classifier, states: HiddenStates) -> HiddenStates:
    """The last block's state of each text at the position that is read, and no other."""

    def read(batch: Batch) -> Tensor:
        at = classifier.reading.positions(batch)
        return classifier.run_blocks(batch.inputs, start=batch.n_blocks, at=at)[:, 0]  # (B, D)

    n_texts = READ_AT_ONCE if classifier.reading.mixes_lengths else size()
    groups = torch.arange(len(states)).split(n_texts)
    batches = (states.__getitems__(indices.tolist()) for indices in groups)
    batches = follow(batches, "last block", "batches", len(groups), leave=False)
    rows = torch.cat([map_rows(read, batch.to(classifier.device)) for batch in batches])
    if not torch.isfinite(rows).all():
        raise _not_finite(classifier, None, len(classifier.gpt.blocks))
    one = torch.ones_like(states.lengths)
    return HiddenStates(rows, one.cumsum(0) - 1, one, one, one, states.labels, states.n_blocks + 1)


def batch_by_length(lengths: Sequence[int], classifier: Classifier) -> Iterator[list[int]]:
    """Numbers of texts in batches of similar length; of equal length where every token sees
    every other, padding included."""
    limit = TOKENS_PER_BATCH.get(classifier.device.type, TOKENS_PER_BATCH["cpu"])
    limit = min(limit, -(-sum(lengths) // size()))  # so that each process has one
    mixes_lengths, batch = classifier.reading.mixes_lengths, []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        is_full = (len(batch) + 1) * lengths[i] > limit
        if batch and (is_full or not (mixes_lengths or lengths[i] == lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _allocate(n_rows: int, gpt: GPTModel, memory: float | None) -> Tensor | None:
    """Room (n_rows, D) for the states: on the model's device, in memory, on disk, or none."""
    like = gpt.token_embedding.weight
    shape = (n_rows, like.shape[1])
    n_bytes = shape[0] * shape[1] * like.element_size()
    devices = list(dict.fromkeys((gpt.device, torch.device("cpu"))))
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


def _not_finite(classifier: Classifier, tokens: Tensor | None, stop: int) -> HiddenStateError:
    """The error that names the first block whose states are not finite: it is found from the token
    ids (B, T), if they are given; otherwise it is ``stop``, the last that ran."""
    number, n_blocks = stop, len(classifier.gpt.blocks)
    if tokens is not None:
        states = (classifier.run_blocks(tokens.to(classifier.device), stop=n) for n in range(stop))
        number = next((n for n, s in enumerate(states) if not torch.isfinite(s).all()), stop)
    where = f"after block {number} of {n_blocks}" if number else "after the embedding"
    return HiddenStateError(
        f"Hidden states are not finite {where}: the weights, or --precision "
        f"{classifier.precision}, are not fit for this. Get the weights again, or take --precision "
        "fp32."
    )
