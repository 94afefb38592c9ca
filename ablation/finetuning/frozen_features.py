"""Hidden states below the first trainable block, computed once.

Without dropout, what the frozen blocks at the bottom of a model make of a text never changes:
it is computed here, in large batches and without autograd, and training runs on top of it.
Texts are cut to the positions that their logits depend on, equal texts are computed once,
and texts of different lengths are never padded to more than their neighbours in length.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ablation.classifier.build import GPTClassifier, Reading
from ablation.finetuning.feature_store import FeatureStore
from ablation.finetuning.text_states import TOKEN, StatesCost, TextStates, pad_rows
from ablation.system.errors import HiddenStateError
from ablation.system.parallel import place, share_tensor, size
from ablation.system.progress import Progress
from data_utils import PARTS, EncodedTexts, LabelledTexts, Splits
from gpt_model import GPTModel

# Tokens in a batch of the frozen part. On a CPU its activations should stay in the cache; on a
# GPU a batch should fill it.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}
WINDOW_BYTES = 256_000_000  # of states that are in memory until they are read at one position


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
        rows, _ = pad_rows(self.starts[indices], self.n_states[indices])
        return self.states[rows.to(self.states.device)]


def prepare_inputs(
    classifier: GPTClassifier,
    texts: Splits[EncodedTexts],
    memory: float | None = None,
    prefix: "FrozenPrefix | None" = None,
    store: FeatureStore | None = None,
) -> Splits[LabelledTexts]:
    """What training and evaluation run on, chosen by what is frozen and what is read.

    Where nothing may be reused, the texts as they are; otherwise the hidden states below the
    first trainable block, or, if there is no frozen block, the texts' needed tokens.

    Args:
        memory: GB that hidden states may take before they go to disk; by default half of what
            is free.
        prefix: shared with other experiments, whose states serve this one as well.
        store: where states are found, and added that are not.

    Raises:
        HiddenStateError: a hidden state is not finite.
    """
    if not classifier.reuses_work:
        return texts
    needed = cut_splits(texts, classifier.reading)
    if not count_frozen_blocks(classifier.gpt):
        return needed
    return (prefix or FrozenPrefix([needed])).states(classifier, needed, memory, store) or needed


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
        numbers: dict[bytes, int] = {}  # of different texts, by their token ids
        self._numbers = Splits(
            *(_number([getattr(texts, part) for texts in needs], numbers) for part in PARTS)
        )
        self._states = TextStates(list(numbers))
        self._is_shared = len(needs) > 1
        self._n_computed = 0  # states, for the last experiment
        self.key = key
        self.cost = StatesCost()

    @property
    def n_states(self) -> int:
        """How many positions are computed, of all different texts."""
        return len(self._states)

    @torch.no_grad()
    def states(
        self,
        classifier: GPTClassifier,
        needed: Splits[EncodedTexts],
        memory: float | None = None,
        store: FeatureStore | None = None,
    ) -> Splits[HiddenStates] | None:
        """The states of one experiment's texts after its frozen blocks; none if nothing fits.

        Args:
            memory: GB that they may take before they go to disk; by default half of what is free.
            store: where states are looked for, and added that are not there.
        """
        n_blocks, started = count_frozen_blocks(classifier.gpt), time.perf_counter()
        # Where even the last block is frozen, only the position that is read is kept.
        reads_one = n_blocks == len(classifier.gpt.blocks) and not classifier.reading.average
        self._n_computed = 0
        classifier.eval()
        try:
            with Progress("hidden states", "texts", len(self._states.texts)) as progress:
                ways = memory, store, progress
                if reads_one:
                    values = self._read(classifier, needed, *ways)
                else:
                    values = self._advance(self._states, classifier, n_blocks, *ways)
        finally:
            if store:
                store.finish()
        found = (store.found_seconds, store.n_found) if store else (0.0, 0)
        waited = store.waited_seconds if store else 0.0
        seconds = time.perf_counter() - started - waited
        self.cost = self.cost.plus(seconds, *found, self._n_computed)
        if values is None:
            return None

        def view(number: Tensor, texts: EncodedTexts) -> HiddenStates:
            if reads_one:
                one = torch.ones_like(number)
                return HiddenStates(values, number, one, one, one, texts.labels, n_blocks)
            own = (texts.n_inputs, texts.lengths, texts.padded_lengths, texts.labels)
            return HiddenStates(values, self._states.starts[number], *own, n_blocks)

        return Splits(*map(view, vars(self._numbers).values(), vars(needed).values()))

    def _read(
        self,
        classifier: GPTClassifier,
        needed: Splits[EncodedTexts],
        memory: float | None,
        store: FeatureStore | None,
        progress: Progress,
    ) -> Tensor | None:
        """The last block's states (N, D) of all texts at the position that is read, and no other;
        none if the states below it fit nowhere."""
        stop, like = len(classifier.gpt.blocks) - 1, classifier.gpt.token_embedding.weight
        at = torch.zeros_like(self._states.lengths)
        for number, texts in zip(vars(self._numbers).values(), vars(needed).values(), strict=True):
            at[number] = classifier.reading.positions(texts)
        read = like.new_empty(len(at), like.shape[1])
        # What no other experiment needs is forgotten once it is read.
        n_rows = len(self._states) if self._is_shared else WINDOW_BYTES // read[0].nbytes
        for numbers, states in self._states.windows(n_rows):
            values = self._advance(states, classifier, stop, memory, store, progress)
            if values is None:
                return None
            for batch in map(torch.tensor, batch_by_length(states.lengths.tolist(), classifier)):
                rows, _ = pad_rows(states.starts[batch], states.lengths[batch])
                inputs = values[rows.to(values.device)].to(like.device)
                last = classifier.run_blocks(inputs, stop, at=at[numbers[batch]].to(like.device))
                read[numbers[batch]] = last[:, 0].to(read)
        if not torch.isfinite(read).all():
            raise _not_finite(classifier, None, stop + 1)
        return read

    def _advance(
        self,
        states: TextStates,
        classifier: GPTClassifier,
        stop: int,
        memory: float | None,
        store: FeatureStore | None,
        progress: Progress,
    ) -> Tensor | None:
        """The states (R, D) after the blocks up to ``stop``, from a store or computed; none if they
        fit nowhere."""
        if not states.make_room(classifier.gpt.token_embedding.weight, memory):
            return None
        states.forget(states.n_blocks > stop)
        if store:
            store.fill(states, stop)
        progress.update(int((states.n_blocks == stop).sum()))
        try:
            while (missing := states.n_blocks < stop).any():
                start = int(states.n_blocks[missing].min())
                for batch, seconds in self._compute(states, classifier, start, stop):
                    progress.update(len(batch))
                    self._n_computed += int(states.lengths[batch].sum())
                    if store:
                        store.collect(states, batch, stop, seconds)
        finally:
            if store:
                store.flush(states, stop)
        return states.values

    def _compute(
        self, states: TextStates, classifier: GPTClassifier, start: int, stop: int
    ) -> Iterator[tuple[Tensor, float]]:
        """Take the states of texts that passed ``start`` blocks through those up to ``stop``: the
        numbers of a batch's texts (B,), and the seconds that it took, batch after batch."""
        rank, width = place().rank, states.values.shape[1]
        numbers = (states.n_blocks == start).nonzero()[:, 0]
        batches = batch_by_length(states.lengths[numbers].tolist(), classifier)
        # By then, some may have been found in the store.
        left = (
            batch[states.n_blocks[batch] == start] for batch in map(numbers.__getitem__, batches)
        )
        left = (batch for batch in left if len(batch))
        # Several processes compute a batch each at a time, and give it to the others.
        while group := list(islice(left, size())):
            began = time.perf_counter()
            if rank < len(group):
                own = _run_batch(states, classifier, group[rank], start, stop)
            for owner, batch in enumerate(group):
                rows = states.rows(batch)
                new = own if owner == rank else states.values.new_empty(len(rows), width)
                if not torch.isfinite(share_tensor(new, owner)).all():
                    raise _not_finite(classifier, states.tokens(batch), stop)
                seconds, began = time.perf_counter() - began, time.perf_counter()
                states.put(batch, new, stop, states.seconds[rows] + seconds / len(rows))
                yield batch, seconds


def _run_batch(
    states: TextStates, classifier: GPTClassifier, batch: Tensor, start: int, stop: int
) -> Tensor:
    """The states (r, D) of a batch's texts before block ``stop``, text after text."""
    rows, is_own = pad_rows(states.starts[batch], states.lengths[batch])
    inputs = states.values[rows.to(states.values.device)] if start else states.tokens(batch)
    hidden = classifier.run_blocks(inputs.to(classifier.device), start, stop)
    return hidden[is_own.to(hidden.device)].to(states.values)


def _number(needs: Sequence[EncodedTexts], numbers: dict[bytes, int]) -> Tensor:
    """The number (N,) of each text, cut to the longest that is needed of it; texts that are new
    are added to ``numbers``."""
    longest = torch.stack([texts.n_inputs for texts in needs]).argmax(dim=0).tolist()
    keys = (
        needs[which].first_tokens(i, int(needs[which].n_inputs[i])).numpy().astype(TOKEN).tobytes()
        for i, which in enumerate(longest)
    )
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


def batch_by_length(lengths: Sequence[int], classifier: GPTClassifier) -> Iterator[list[int]]:
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


def _not_finite(classifier: GPTClassifier, tokens: Tensor | None, stop: int) -> HiddenStateError:
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
