"""What a model says of a text after each token, as a strip of tokens for a page.

Nothing here needs the rest of the reports, so that predict.py can write a page of strips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ablation.finetuning.by_token import (
    ByToken,
    Stretch,
    padding_words,
    readable,
    some_stretches,
)
from ablation.reports.pages import TEMPLATES, render_html, render_part
from ablation.system.files import write_asked_for

TITLE = "What the model would say after each token"


@dataclass(frozen=True)
class Cell:
    """A token, or a stretch of padding, and the probability there."""

    words: str
    low: float  # probabilities, equal for a token
    high: float
    label: str  # the best class
    is_padding: bool
    agrees: bool = True  # whether that is the class of the probabilities
    changes: bool = False  # whether it is another than before
    is_answer: bool = False
    is_gap: bool = False  # it stands for what is left out, and has no probability

    @property
    def shown(self) -> str:
        """The probability, or from where to where it goes, in two digits."""
        if self.is_gap:
            return ""
        low, high = f"{self.low:.2f}", f"{self.high:.2f}"
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class TokenStrip:
    """One text as one model reads it: a probability for each of its ``cells``."""

    title: str
    says: str  # of which class the probabilities are, and how the text is read
    cells: tuple[Cell, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The same as texts, for a page without pictures."""
        return pd.DataFrame(
            {
                "token": cell.words,
                "probability": cell.shown,
                "best class": f"{cell.label}, the answer" if cell.is_answer else cell.label,
            }
            for cell in self.cells
        )


def make_strip(read: ByToken, label: str | None = None, title: str | None = None) -> TokenStrip:
    """The strip of a text.

    Args:
        label: the class whose probabilities it shows; by default the one that the text is given.
        title: by default, that class and its probability.
    """
    label = label or read.label
    shown, last = read.probability_of(label), len(read.predicted) - 1

    def cell(words: str, stretch: Stretch, is_padding: bool) -> Cell:
        some = shown[stretch.start : stretch.stop]
        return Cell(
            words,
            min(some),
            max(some),
            stretch.label,
            is_padding,
            agrees=stretch.label == label,
            changes=read.changes_at(stretch.start),
            is_answer=stretch.start == last,
        )

    n_own = len(read.tokens)
    cells = [
        cell(readable(token), Stretch(i, i + 1, read.predicted[i]), False)
        for i, token in enumerate(read.tokens)
    ]
    first, final, n_between = some_stretches(read.padding)
    cells += [cell(padding_words(stretch, n_own), stretch, True) for stretch in first]
    if n_between:
        cells.append(Cell(f"{n_between:,} more changes", 0, 0, "", True, is_gap=True))
    cells += [cell(padding_words(stretch, n_own), stretch, True) for stretch in final]
    says = [f'The probability of "{label}" after each token.', read.reads]
    says += [f"The text is longer: {read.cut_words}"] * bool(read.n_cut)
    title = title or f"{read.label} {read.probability_of(read.label)[-1]:.4f}"
    return TokenStrip(title, " ".join(says), (*cells,))


def render_strips(strips: Sequence[TokenStrip], title: str = TITLE) -> str:
    """A page of strips, as HTML that needs nothing from elsewhere."""
    contents = (TEMPLATES / "tokens.txt").read_text()
    return render_html(contents, {"title": title, "strips": strips})


def render_for_notebook(strips: Sequence[TokenStrip]) -> str:
    """The same without a page around them."""
    return render_part((TEMPLATES / "token_part.txt").read_text(), {"strips": strips})


def write_page(path: Path, texts: Sequence[ByToken]) -> None:
    """Write a page of texts by token. Raises ``DataError`` if it cannot be written."""
    page = render_strips([make_strip(read) for read in texts])
    write_asked_for(f"--html {path}", path, page.encode())
