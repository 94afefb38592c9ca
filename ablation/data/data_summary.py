"""What was read, in a few lines: sizes, classes, texts that may mislead, and what is easy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ablation.system.output import printable
from ablation.system.text_tables import cut
from data_utils import Corpus, EncodedTexts, Splits

LABEL_COLUMNS = 30  # of a label on the terminal


@dataclass(frozen=True)
class DataSummary:
    """What there is to know about texts before training on them."""

    n_texts: Splits[int]
    counts: dict[str, int]  # texts of each class, in all parts
    majority: str  # the largest class of the training part
    majority_share: float  # of the test texts that are of it
    n_copies: int  # test texts that stand word for word in the training part
    n_ambiguous: int  # different texts that have more than one label, within or across parts
    n_with_ambiguous: int  # texts that are one of these


def summarise(parts: Splits[pd.DataFrame], labels: Sequence[str]) -> DataSummary:
    """Look at texts of ``Label`` and ``Text``.

    Args:
        labels: the names of the classes, by number.
    """
    train, test = parts.train, parts.test
    every = pd.concat(vars(parts).values())
    counts = every["Label"].value_counts()
    majority = train["Label"].mode().min()
    n_labels = every.groupby("Text")["Label"].transform("nunique")
    ambiguous = every["Text"][n_labels > 1]
    return DataSummary(
        n_texts=parts.map(len),
        counts={label: int(counts.get(number, 0)) for number, label in enumerate(labels)},
        majority=labels[majority],
        majority_share=float((test["Label"] == majority).mean()),
        n_copies=int(test["Text"].isin(set(train["Text"])).sum()),
        n_ambiguous=ambiguous.nunique(),
        n_with_ambiguous=len(ambiguous),
    )


def format_summary(summary: DataSummary, name: str) -> list[str]:
    """The lines of a summary for people; the first has the sizes."""
    counts = summary.counts
    largest = max(counts, key=counts.__getitem__)
    smallest = min(reversed(counts), key=counts.__getitem__)  # another one, if all are alike
    return [
        f"{printable(name)}: {_format_parts(summary.n_texts)} of {len(counts):,} classes",
        f"Largest class: {_show(largest)}, {counts[largest]:,} texts; "
        f"smallest: {_show(smallest)}, {counts[smallest]:,}",
        f"Always naming {_show(summary.majority)} is right for {summary.majority_share:.2%} of the "
        "test texts",
        f"Test texts that also stand in the training part: {summary.n_copies:,}",
        f"Different texts under more than one label: {summary.n_ambiguous:,} "
        f"({summary.n_with_ambiguous:,} texts in all)",
    ]


def describe_corpus(corpus: Corpus, is_own: bool) -> str:
    """What was read: of one's own data all that is worth knowing, otherwise the sizes."""
    lines = format_summary(summarise(corpus.parts, corpus.class_names), corpus.name)
    return "\n".join(lines if is_own else lines[:1])


def format_cut(texts: Splits[EncodedTexts], n_tokens: int) -> str:
    """How many texts were longer than ``n_tokens``, to which they were cut."""
    return f"Cut to {n_tokens:,} tokens: {_format_parts(texts.map(lambda part: part.n_cut))}"


def _format_parts(n: Splits[int]) -> str:
    return f"{n.train:,} training, {n.validation:,} validation and {n.test:,} test texts"


def _show(label: str) -> str:
    return f'"{cut(printable(label), LABEL_COLUMNS)}"'
