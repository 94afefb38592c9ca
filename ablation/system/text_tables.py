"""Tables for a terminal, where some characters take two columns and some none."""

import textwrap
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import pandas as pd

TERMINAL_COLUMNS = 100
LEAST_WIDTH = 21  # of a column that is wrapped: the longest names of flags
WIDE = "\ufe0f"  # makes the emoji before it as wide as most are


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if character == WIDE:
        return 1
    is_jamo = "\u1160" <= character <= "\u11ff"  # drawn into the syllable before it
    if is_jamo or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """A text of at most ``width`` columns; it ends with "…" where it was cut."""
    ends = list(accumulate(map(_columns, text)))
    if not ends or ends[-1] <= width:
        return text
    return f"{text[: bisect_right(ends, width - 1)]}…"


def cut_apart(texts: Sequence[str], width: int) -> list[str]:
    """Texts of at most ``width`` columns; where two would look alike, the middle is cut out."""
    short = [cut(text, width) for text in texts]
    alike = {text for text in short if short.count(text) > 1}
    for i, text in enumerate(texts):
        if short[i] in alike and short[i] != text:
            ends = list(accumulate(map(_columns, text)))
            start = ends[bisect_left(ends, ends[-1] - width // 2)]
            # A mark stays with its letter.
            short[i] = cut(text, width - width // 2) + text[bisect_right(ends, start) :]
    return short


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """A line for each row: the columns ``left`` are flush left, the others are flush right."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    flush_left = {range(len(widths))[column] for column in left}
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            spaces = " " * (width - display_width(cell))
            cells.append(cell + spaces if i in flush_left else spaces + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def align_wrapped(table: pd.DataFrame) -> str:
    """A table of texts, wrapped in its last column so that lines have at most ``TERMINAL_COLUMNS``
    columns, if the others leave room for that."""
    rows = [[*table.columns], *table.to_numpy().tolist()]
    widths = [max(map(display_width, column)) + 2 for column in zip(*rows, strict=True)][:-1]
    room = max(LEAST_WIDTH, TERMINAL_COLUMNS - sum(widths))
    lines = rows[:1]
    for *cells, text in rows[1:]:
        first, *others = _wrap(text, room) or [""]
        lines += [[*cells, first], *([*[""] * len(cells), piece] for piece in others)]
    return "\n".join(align(lines, left=(-1,)))


def fill(text: str) -> str:
    """A text in lines of at most ``TERMINAL_COLUMNS`` columns."""
    return "\n".join(_wrap(text, TERMINAL_COLUMNS))


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
