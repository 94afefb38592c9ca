"""What a model says of a text, as a line for people, for a table, or for a program."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from ablation.system.errors import shorten
from ablation.system.output import printable

FORMATS = ("text", "csv", "jsonl")
SHOWN_CHARACTERS = 80  # of a text, in the format for people
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Prediction:
    """The class of a text, and how probable the model finds it."""

    text: str
    label: str
    probability: float


def disarm(cell: str) -> str:
    """A cell of a CSV file, behind an apostrophe where a spreadsheet would compute it.

    That is what begins with ``=``, ``+``, ``-`` or ``@``, also in full width, and behind what a
    spreadsheet passes over; and what begins with a tab or a line break. Numbers stay.
    """
    shown = (c for c in unicodedata.normalize("NFKC", cell) if c.isprintable() and not c.isspace())
    is_formula = next(shown, "") in tuple("=+-@") or cell[:1] in tuple("\t\r\n")
    return f"'{cell}" if is_formula and not NUMBER.fullmatch(cell) else cell


def format_prediction(number: int, prediction: Prediction, form: str, width: int = 0) -> str:
    """A line of output. For people nothing acts: no text or label moves the cursor. For a
    spreadsheet no label is a formula.

    Args:
        number: of the text, from 0.
        form: one of ``FORMATS``.
        width: for people, what labels are padded to.
    """
    if form == "csv":
        label = disarm(prediction.label).replace('"', '""')
        return f'{number},"{label}",{prediction.probability:.9g}'
    if form == "jsonl":
        return json.dumps(vars(prediction))
    shown = shorten(printable(prediction.text[: SHOWN_CHARACTERS + 1]), SHOWN_CHARACTERS)
    return f"{printable(prediction.label):<{width}}  {prediction.probability:.4f}  {shown}"
