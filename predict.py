"""Classify texts with a model that additional_experiments.py --save_model kept."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tiktoken
import torch

from classifier import classify
from console import Parser, run_for_people
from data_utils import EncodedTexts, encode_texts
from errors import ConfigError, DataError
from experiment import find_encoding
from experiment_config import DEVICES
from frozen_features import batch_by_length, cut_texts
from output import printable, write
from own_data import read_columns
from progress import Progress
from saved_models import CONFIG_NAME, SavedClassifier, load_classifier

TEXTS_AT_ONCE = 2048  # read, sorted by length, classified, and given back in their order
FORMATS = ("text", "csv", "jsonl")
OF_THIS_MACHINE = ("weights", "weights_dir", "device", "offline")  # options that a model may need
SHOWN_CHARACTERS = 80  # of a text, in the format for people
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Prediction:
    """The class of a text, and how probable the model finds it."""

    text: str
    label: str
    probability: float


def predict(
    classifier: SavedClassifier,
    encoding: tiktoken.Encoding,
    texts: Iterable[str],
    at_once: int = TEXTS_AT_ONCE,
) -> Iterator[Prediction]:
    """Classify texts, in their order, holding ``at_once`` of them in memory."""
    texts = iter(texts)
    with Progress("classified", "texts", None) as progress:
        while chunk := list(islice(texts, at_once)):
            rows = _probabilities(classifier, encoding, chunk, progress)
            for text, row in zip(chunk, rows, strict=True):
                best = int(row.argmax())
                yield Prediction(text, classifier.labels[best], float(row[best]))


@torch.inference_mode()
def _probabilities(
    classifier: SavedClassifier,
    encoding: tiktoken.Encoding,
    texts: Sequence[str],
    progress: Progress,
) -> torch.Tensor:
    """The probability of each class for each text: (N, C), float64."""
    config, model = classifier.config, classifier.model
    numbers: dict[tuple[int, ...], int] = {}  # equal texts are classified once
    which = [
        numbers.setdefault(tuple(tokens[: classifier.max_tokens]), len(numbers))
        for tokens in encode_texts(texts, encoding)
    ]
    copies = Counter(which)
    width = None if config.no_padding else classifier.max_tokens
    encoded = cut_texts(EncodedTexts(list(numbers), [0] * len(numbers), width), config)
    probabilities = torch.empty(len(numbers), len(classifier.labels), dtype=torch.float64)
    for batch in batch_by_length(encoded.n_inputs.tolist(), model.device, config):
        logits, _ = classify(model, encoded.__getitems__(batch), config)
        probabilities[batch] = logits.cpu().double().softmax(dim=-1)
        progress.update(sum(copies[i] for i in batch))
    return probabilities[which]


# ---------------------------------------------------------------- in and out


def read_lines() -> Iterator[str]:
    """The lines of standard input, which is UTF-8; they end with LF, CRLF or CR.

    Raises:
        DataError: a line is not UTF-8, or no text.
    """
    # Bytes that are no UTF-8 are kept, so that a line is complained of when its turn has come.
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline=None)
    for number, line in enumerate(sys.stdin, start=1):
        _require_text(line.encode("utf-8", "surrogateescape"), f"Standard input, line {number}")
        yield line.removesuffix("\n")


def _require_text(line: bytes, place: str) -> None:
    """Raise :class:`DataError` unless a line is UTF-8 without NUL bytes."""
    try:
        if b"\0" not in line:
            line.decode("utf-8")
            return
        reason = "a NUL byte, which no text holds"
    except UnicodeDecodeError as error:
        reason = f"byte 0x{line[error.start]:02x} at place {error.start + 1} is not UTF-8"
    likely = "utf-16" if b"\0" in line or line[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "cp1252"
    raise DataError(
        f"{place}: {reason}. Give UTF-8; if this is {likely}, `iconv -f {likely} -t utf-8` "
        "converts it."
    )


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
    shown = printable(prediction.text[: SHOWN_CHARACTERS + 1])
    if len(shown) > SHOWN_CHARACTERS:
        shown = shown[:SHOWN_CHARACTERS] + "..."
    return f"{printable(prediction.label):<{width}}  {prediction.probability:.4f}  {shown}"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        usage="python predict.py RUN_DIR [TEXT ...] [--flag value ...]",
        description=__doc__,
        epilog="Without TEXT and --csv, every line of standard input is a text.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?", help="the run's folder")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="what to classify")
    parser.add_argument("--csv", metavar="FILE", help="CSV or TSV file of texts")
    parser.add_argument(
        "--column",
        metavar="NAME",
        default="Text",
        help="name of its column of texts, or, in a file without names, its number (default: Text)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="of the output: text, for people; csv: the text's number from 0, its label, and the "
        "label's probability, where a label that a spreadsheet would take for a formula has an "
        "apostrophe before it; jsonl: the exact label and its probability, with the text, as lines "
        "of JSON (default: text)",
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="the base weights, if they are not where they were"
    )
    parser.add_argument("--weights_dir", metavar="DIR", help="folder of published weights")
    parser.add_argument(
        "--offline", action="store_true", help="use only what is there already, and no network"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: auto)")
    return parser


def perform(arguments: argparse.Namespace) -> int:
    """Classify what is asked for. Returns the exit status.

    Raises:
        ConfigError: the command line has no sense.
        DataError, CheckpointError: texts, vocabulary, model or base weights cannot be had.
    """
    problems = []
    folder = Path(arguments.run_dir or "")
    if not arguments.run_dir:
        problems.append("RUN_DIR is missing; give the folder of a run with --save_model")
    elif not folder.is_dir():
        problems.append(f"{folder}: no such folder; give the folder of a run with --save_model")
    if arguments.csv is not None and arguments.texts:
        problems.append("TEXT with --csv: give one of them")
    if any(text and os.path.isfile(os.path.join(text, CONFIG_NAME)) for text in arguments.texts):
        problems.append("more than one RUN_DIR: give the folder of one run")
    if problems:
        raise ConfigError(problems)
    given = {name: getattr(arguments, name) for name in OF_THIS_MACHINE}
    classifier = load_classifier(folder, {k: value for k, value in given.items() if value})
    is_typed = not arguments.texts and arguments.csv is None and sys.stdin.isatty()
    if arguments.csv is not None:
        columns = read_columns(Path(arguments.csv), [arguments.column])
        texts: Iterable[str] = (text for (text,) in columns)
    else:
        texts = arguments.texts or read_lines()
    if arguments.format == "csv":
        write("index,label,probability")
    found = predict(
        classifier, find_encoding(classifier.config), texts, 1 if is_typed else TEXTS_AT_ONCE
    )
    width = max(len(printable(label)) for label in classifier.labels)
    for number, prediction in enumerate(found):
        write(format_prediction(number, prediction, arguments.format, width))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status: 0, 2 for wrong usage, 1 for other faults."""
    return run_for_people(lambda: perform(build_parser().parse_intermixed_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
