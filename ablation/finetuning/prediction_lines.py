"""What a model says of a text, as a line for people, for a spreadsheet, or of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ablation.system.errors import shorten
from ablation.system.output import disarm, printable

FORMATS = ("text", "csv", "jsonl")
ALWAYS = ("text", "label", "probability")  # in a line of JSON
SHOWN_CHARACTERS = 80  # of a text, in the format for people


@dataclass(frozen=True)
class Prediction:
    """The class of a text, and the probability that the model gives it."""

    text: str
    label: str
    probability: float
    # Those of several classes, where they are asked for, the most probable first.
    probabilities: Mapping[str, float] = field(default_factory=dict)


def format_prediction(
    number: int,
    prediction: Prediction,
    form: str,
    width: int = 0,
    columns: Sequence[str] = (),
    actual: str | None = None,
) -> str:
    """The line for text ``number``, from 0, in one of ``FORMATS``. For people, labels are padded to
    ``width``, and nothing moves the cursor; for a spreadsheet, no label is a formula.

    Args:
        columns: of CSV, the classes that have a column of their own; by default, each of several
            probabilities stands behind its label.
        actual: the class that the text has in its file.
    """
    probabilities = prediction.probabilities
    best, several = (prediction.label, prediction.probability), [*probabilities.items()]
    if form == "csv":
        pairs = [best] if columns else [best, *several[1:]]
        cells = [cell for name, p in pairs for cell in (_quote(name), f"{p:.9g}")]
        cells += [f"{probabilities[name]:.9g}" for name in columns]
        cells += [_quote(actual)] if actual is not None else []
        return ",".join([str(number), *cells])
    if form == "jsonl":
        given = {"probabilities": probabilities, "actual": actual}
        shown = {name: value for name, value in given.items() if value}
        return json.dumps({name: getattr(prediction, name) for name in ALWAYS} | shown)
    shown = [f"{printable(name):<{width}}  {p:.4f}" for name, p in several or [best]]
    shown += [f"{printable(actual):<{width}}"] if actual is not None else []
    text = shorten(printable(prediction.text[: SHOWN_CHARACTERS + 1]), SHOWN_CHARACTERS)
    return "  ".join([*shown, text])


def format_head(columns: Sequence[str], n: int, has_actual: bool) -> str:
    """The first line of CSV, above the lines of :func:`format_prediction` with ``n`` classes."""
    names = ["index", "label", "probability"]
    names += [f"{name}_{i}" for i in range(2, n + 1) for name in names[1:3]]
    names += [_quote(f"probability_{name}") for name in columns]
    return ",".join([*names, "actual"] if has_actual else names)


def _quote(label: str) -> str:
    """A label as a cell of CSV that no spreadsheet computes."""
    return '"' + disarm(label).replace('"', '""') + '"'
