"""What was read, in a few lines: sizes, classes, texts that may mislead, and what is easy."""

import pandas as pd

from ablation.system.output import printable
from ablation.system.text_tables import cut
from data_utils import Corpus, EncodedTexts, Splits

LABEL_COLUMNS = 30  # of a label on the terminal


def describe_corpus(corpus: Corpus, is_own: bool) -> str:
    """What was read: the sizes; of your own data, also what is worth knowing before training."""
    parts, names = corpus.parts, corpus.class_names
    sizes = f"{printable(corpus.name)}: {_format_parts(parts.map(len))} of {len(names):,} classes"
    if not is_own:
        return sizes
    shown = [f'"{cut(printable(name), LABEL_COLUMNS)}"' for name in names]
    every = pd.concat(vars(parts).values())
    counts = every["Label"].value_counts().reindex(range(len(names)), fill_value=0)
    largest = counts.idxmax()
    smallest = counts[::-1].idxmin()  # another one, if all are alike
    majority = parts.train["Label"].mode().min()
    majority_share = (parts.test["Label"] == majority).mean()
    n_copies = parts.test["Text"].isin(parts.train["Text"]).sum()
    # Texts with more than one label, within a part or across parts.
    different = every[["Label", "Text"]].drop_duplicates()["Text"]
    ambiguous = set(different[different.duplicated()])
    lines = [
        sizes,
        f"Largest class: {shown[largest]}, {counts[largest]:,} texts; "
        f"smallest: {shown[smallest]}, {counts[smallest]:,}",
        f"Always naming {shown[majority]} is right for {majority_share:.2%} of the test texts",
        f"Test texts that also stand in the training part: {n_copies:,}",
        f"Different texts under more than one label: {len(ambiguous):,} "
        f"({every['Text'].isin(ambiguous).sum():,} texts in all)",
    ]
    return "\n".join(lines)


def format_cut(texts: Splits[EncodedTexts], n_tokens: int) -> str:
    """How many texts were longer than ``n_tokens``, to which they were cut."""
    return f"Cut to {n_tokens:,} tokens: {_format_parts(texts.map(lambda part: part.n_cut))}"


def _format_parts(n: Splits[int]) -> str:
    return f"{n.train:,} training, {n.validation:,} validation and {n.test:,} test texts"
