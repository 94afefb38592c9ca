"""What a model says of a text after each token, as lines for people, a spreadsheet, or of JSON."""

import csv
import io
import json
from collections.abc import Iterator, Sequence

from ablation.finetuning.by_token import (
    ByToken,
    Stretch,
    padding_words,
    readable,
    some_stretches,
)
from ablation.finetuning.prediction_lines import Prediction, format_prediction
from ablation.system.output import disarm, printable
from ablation.system.text_tables import align

HEAD = "index,position,kind,token,label,answer,probability_of_answer"
BAR = 20  # signs for a probability of 1
ANSWER = "<- the answer"


def format_by_token(number: int, read: ByToken, form: str) -> Iterator[str]:
    """The lines for text ``number``, from 0, in one of ``FORMATS``: for people, neighbouring
    padding tokens of one class are one line; the others have a line for each position."""
    if form == "text":
        yield from _for_people(read)
        return
    own = read.probability_of(read.label)
    n_own, tokens = len(read.tokens), [readable(token) for token in read.tokens]
    for place, label in enumerate(read.predicted):
        is_own = place < n_own
        line = {
            "index": number,
            "position": place + 1,
            "kind": "text" if is_own else "padding",
            "token": tokens[place] if is_own else "",
            "label": label,
            "answer": read.label,
            "probability_of_answer": own[place],
        }
        if form == "csv":
            yield _csv_line([*list(line.values())[:-1], f"{own[place]:.9g}"])
        else:
            values = read.probabilities[place].tolist()
            rest = {"probabilities": dict(zip(read.class_names, values, strict=True))}
            yield json.dumps(line | ({"token_id": read.token_ids[place]} if is_own else {}) | rest)


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    armed = [disarm(cell) if isinstance(cell, str) else cell for cell in cells[:-1]]
    csv.writer(line, lineterminator="").writerow([*armed, cells[-1]])
    return line.getvalue()


def _for_people(read: ByToken) -> Iterator[str]:
    own = read.probability_of(read.label)
    yield format_prediction(0, Prediction(read.text, read.label, own[-1]), "text")
    rows = [["", "token", printable(read.label), "", "best class"]]
    for place, token in enumerate(read.tokens):
        shown = f"{own[place]:.4f}", "#" * round(BAR * own[place])
        rows.append([str(place + 1), readable(token), *shown, class_words(read, place)])
    first, last, n_between = some_stretches(read.padding)
    rows += [_padding_row(read, stretch, own) for stretch in first]
    if n_between:
        rows.append(["", f"({n_between:,} more changes; csv has all)", "", "", ""])
    rows += [_padding_row(read, stretch, own) for stretch in last]
    rows[-1][-1] += f"  {ANSWER}"
    yield from align(rows, left=(1, 3, 4))
    yield read.reads
    yield ""


def _padding_row(read: ByToken, stretch: Stretch, own: Sequence[float]) -> list[str]:
    some = own[stretch.start : stretch.stop]
    low, high = f"{min(some):.4f}", f"{max(some):.4f}"
    words = padding_words(stretch, len(read.tokens))
    bar = "#" * round(BAR * some[-1]) if len(some) == 1 else ""
    shown = low if low == high else f"{low} to {high}"
    return ["", words, shown, bar, class_words(read, stretch.start)]


def class_words(read: ByToken, place: int) -> str:
    """The best class at a position, and which it was before, if that was another."""
    was = f" (was {printable(read.predicted[place - 1])})" if read.changes_at(place) else ""
    return f"{printable(read.predicted[place])}{was}"
