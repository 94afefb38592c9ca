"""Texts in three parts, as tokens and as batches of them."""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pandas as pd
import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from ablation.config.options import ExperimentConfig
from ablation.system.errors import DataError
from ablation.system.output import printable

SPLIT_SEED = 123  # the split's own: it never follows --seed
PARTS = ("train", "validation", "test")
PADDING_TOKEN = 50256  # <|endoftext|>

# Of spaces in a row, the last goes with the word behind it. To find it, tiktoken goes back over all
# of them, which ends in a panic if they are many. Cut before the last, a text has the same tokens.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # its \s
_LAST_SPACE = re.compile(f"(?<=[{_SPACE}])(?=[{_SPACE}][^{_SPACE}])")

Part = TypeVar("Part")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Splits(Generic[Part]):
    """One thing for each part of the data."""

    train: Part
    validation: Part
    test: Part

    def map(self, function: Callable[[Part], Other]) -> "Splits[Other]":
        """The result of ``function`` for each part."""
        return Splits(function(self.train), function(self.validation), function(self.test))


@dataclass(frozen=True)
class Corpus:
    """Labelled texts in three parts: ``Label`` (the number of the class), ``Text``, and ``Line``
    (where it begins in the file it comes from, counted from 1)."""

    parts: Splits[pd.DataFrame]
    class_names: tuple[str, ...]  # by number
    name: str
    file_sha256: str | None  # of the file or files; none where there is none


@dataclass(frozen=True)
class Batch:
    """B texts of T positions: token ids, or the hidden states that some blocks made of them."""

    inputs: Tensor  # (B, T) int64, or (B, T, D)
    lengths: Tensor  # (B,) int64, each text's own tokens
    padded_lengths: Tensor  # (B,) int64, its tokens and its padding; T may be less, or more
    labels: Tensor  # (B,) int64
    n_blocks: int = 0  # that were run already

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        tensors = (self.inputs, self.lengths, self.padded_lengths, self.labels)
        return Batch(*(tensor.to(device) for tensor in tensors), self.n_blocks)

    def rows(self, indices: Tensor) -> "Batch":
        """Some of its texts (N,), with no more positions than the widest of them has."""
        n_positions = int(self.padded_lengths[indices].max())
        return Batch(
            self.inputs[indices, :n_positions],
            self.lengths[indices],
            self.padded_lengths[indices],
            self.labels[indices],
            self.n_blocks,
        )


def merge_batches(batches: Sequence[Batch]) -> Batch:
    """One batch of all the texts, its positions as many as the longest batch has."""
    if len(batches) == 1:
        return batches[0]
    inputs = pad_sequence([text for batch in batches for text in batch.inputs], batch_first=True)
    names = ("lengths", "padded_lengths", "labels")
    rest = (torch.cat([getattr(batch, name) for batch in batches]) for name in names)
    return Batch(inputs, *rest, batches[0].n_blocks)


class LabelledTexts(Dataset):
    """N texts with their ``lengths``, ``padded_lengths`` and ``labels``. A list of indices gives a
    :class:`Batch` of them, with the ``inputs(indices)`` of each kind of texts."""

    n_blocks: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:  # PyTorch's hook for whole batches
        return Batch(
            self.inputs(indices),
            self.lengths[indices],
            self.padded_lengths[indices],
            self.labels[indices],
            self.n_blocks,
        )


class EncodedTexts(LabelledTexts):
    """N texts as token ids, all in one tensor, text after text.

    Args:
        tokens: each text's own token ids, at least one.
        labels: each text's class.
        width: what all are padded to on the right; by default each keeps its own length.
    """

    def __init__(
        self, tokens: Iterable[Sequence[int]], labels: Sequence[int], width: int | None = None
    ) -> None:
        ids, lengths = array("i"), array("q")
        for own in tokens:
            ids.extend(own)
            lengths.append(len(own))
        ids.append(PADDING_TOKEN)  # which index -1 finds
        self.ids = torch.frombuffer(ids, dtype=torch.int32)
        self.lengths = torch.frombuffer(lengths, dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.labels = torch.tensor(list(labels))
        self.cut(width or len(ids), pad=width is not None)

    def cut(self, n_tokens: int, pad: bool) -> None:
        """Leave no text more than ``n_tokens`` tokens, and pad all to as many, if asked."""
        self.n_cut = int((self.lengths > n_tokens).sum())  # texts that were longer
        self.lengths = self.lengths.clamp(max=n_tokens)
        self.padded_lengths = torch.full_like(self.lengths, n_tokens) if pad else self.lengths
        self.n_inputs = self.padded_lengths  # how many positions of each text go into a batch

    def inputs(self, indices: Sequence[int]) -> Tensor:
        """Token ids (B, T), int64."""
        positions = torch.arange(int(self.n_inputs[indices].max()))
        is_own = positions < self.lengths[indices][:, None]
        return self.ids[(self.starts[indices][:, None] + positions).where(is_own, -1)].long()

    def first_tokens(self, index: int, n: int) -> Tensor:
        """The first ``n`` token ids (n,) of a text and its padding, int32."""
        start, n_own = int(self.starts[index]), min(n, int(self.lengths[index]))
        return F.pad(self.ids[start : start + n_own], (0, n - n_own), value=PADDING_TOKEN)


def encode_splits(
    splits: Splits[pd.DataFrame], encoding: tiktoken.Encoding, config: ExperimentConfig
) -> Splits[EncodedTexts]:
    """Turn texts into token ids, truncated and padded as the configuration says.

    Nothing exceeds the model's context length. Where nothing is padded, the longest training
    example is no reason to truncate: only an explicit context length is. Raises ``DataError`` if
    the training texts do not fill one batch.
    """
    if config.batch_size > len(splits.train):
        raise DataError(
            f"--batch_size {config.batch_size} is more than the {len(splits.train)} training "
            "texts: no batch would be full. Choose a smaller one."
        )
    texts = splits.map(
        lambda part: EncodedTexts(encode_texts(part["Text"], encoding), part["Label"])
    )
    limit = config.gpt.context_length
    if isinstance(config.context_length, int):
        limit = config.context_length
    elif config.context_length == "longest_training_example" and not config.no_padding:
        limit = min(limit, int(texts.train.lengths.max()))
    for part in vars(texts).values():
        part.cut(limit, pad=not config.no_padding)
    return texts


def count_max_tokens(texts: EncodedTexts, config: ExperimentConfig) -> int:
    """The most tokens read of any text; with padding, the length of every text."""
    if not config.no_padding:
        return int(texts.padded_lengths.max())
    length = config.context_length
    return length if isinstance(length, int) else config.gpt.context_length


def encode_texts(
    texts: Sequence[str], encoding: tiktoken.Encoding, first: int = 1
) -> Iterator[list[int]]:
    """Each text's token ids. An empty text becomes one padding token.

    A text that spells out a special token is encoded as plain text. Raises ``DataError`` if a text
    is not Unicode.

    Args:
        first: the number of the first text, for messages.
    """
    for number, text in enumerate(texts, start=first):
        try:
            text.encode()
        except UnicodeEncodeError as error:  # tiktoken would replace what stands there
            raise DataError(
                f'Text {number}, which begins with "{printable(text[:40])}", is not Unicode: it '
                f"holds U+{ord(text[error.start]):04X} alone, which is half a character or a byte "
                "that is not UTF-8. Give UTF-8, or leave it out."
            ) from error
        pieces = _LAST_SPACE.split(text)
        ids = [token for piece in pieces for token in encoding.encode_ordinary(piece)]
        yield ids or [PADDING_TOKEN]


class Shuffled(Sampler[int]):
    """The numbers of N texts as ``RandomSampler`` shuffles them, made into Python's only as they
    are asked for: an evaluation takes the first few of a million."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        for some in torch.randperm(self._n, generator=generator).split(1024):
            yield from some.tolist()


def make_loaders(datasets: Splits[LabelledTexts], batch_size: int) -> Splits[DataLoader]:
    """Loaders of :class:`Batch`: training shuffled and without a last, smaller batch.

    All of them draw from PyTorch's global generator each time they are iterated.
    """

    def loader(dataset: LabelledTexts, **order: Any) -> DataLoader:
        # The dataset gives whole batches, so there is nothing left to collate.
        return DataLoader(dataset, batch_size, collate_fn=lambda batch: batch, **order)

    train = loader(datasets.train, sampler=Shuffled(len(datasets.train)), drop_last=True)
    return Splits(train, loader(datasets.validation), loader(datasets.test))
