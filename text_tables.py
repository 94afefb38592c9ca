"""Tables for a terminal."""

from __future__ import annotations

import textwrap

import pandas as pd

MAX_WIDTH = 100
LEAST_WIDTH = 21  # of the column that is wrapped: the longest names of flags


def fill(text: str) -> str:
    """A text in lines of at most ``MAX_WIDTH`` columns."""
    return "\n".join(_wrap(text, MAX_WIDTH))


def align(table: pd.DataFrame, wrapped: str) -> str:
    """A table of texts in lines of at most ``MAX_WIDTH`` columns, where that can be.

    Args:
        wrapped: the column whose texts are broken into lines; it comes last.
    """
    columns = [name for name in table.columns if name != wrapped]
    widths = [max(map(len, [name, *table[name]])) for name in columns]
    room = max(LEAST_WIDTH, MAX_WIDTH - sum(widths) - 2 * len(widths))
    lines = [_line(columns, widths, wrapped)]
    for _, row in table.iterrows():
        pieces = textwrap.wrap(
            row[wrapped], room, break_on_hyphens=False, break_long_words=False
        ) or [""]
        lines.append(_line([row[name] for name in columns], widths, pieces[0]))
        lines += [_line([""] * len(columns), widths, piece) for piece in pieces[1:]]
    return "\n".join(lines)


def _line(texts: list[str], widths: list[int], last: str) -> str:
    cells = [text.rjust(width) for text, width in zip(texts, widths, strict=True)]
    return "  ".join([*cells, last]).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
