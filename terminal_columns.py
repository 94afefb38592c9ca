"""Tables of text for a terminal, where some characters take two columns and some none."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

TERMINAL_COLUMNS = 100
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


def shorten(text: str, width: int) -> str:
    """A text of at most ``width`` columns: where it is cut, it ends with "…"."""
    ends = list(accumulate(map(_columns, text)))
    if not ends or ends[-1] <= width:
        return text
    return f"{text[: bisect_right(ends, width - 1)]}…"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal width: the first column is flush left, the others are flush right."""
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    padding = [
        [" " * (width - display_width(cell)) for cell, width in zip(row, widths, strict=True)]
        for row in rows
    ]
    return [
        "  ".join([row[0] + pads[0], *map("".join, zip(pads[1:], row[1:], strict=True))])
        for row, pads in zip(rows, padding, strict=True)
    ]
