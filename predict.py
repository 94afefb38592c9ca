"""Classify texts with a model that additional_experiments.py --save_model kept."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import tiktoken
import torch

from classifier import classify
from console import Parser, run_for_people
from data_utils import EncodedTexts, encode_texts
from errors import ConfigError
from experiment import find_encoding
from experiment_config import DEVICES
from frozen_features import batch_by_length, cut_texts
from output import printable, use_utf8, write
from own_data import read_columns
from prediction_formats import FORMATS, Prediction, format_prediction
from progress import Progress
from saved_models import CONFIG_NAME, SavedClassifier, load_classifier
from standard_input import read_lines

TEXTS_AT_ONCE = 2048  # read, sorted by length, classified, and given back in their order
OF_THIS_MACHINE = ("weights", "weights_dir", "device", "offline")  # options that a model may need


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


# ---------------------------------------------------------------- the command line


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
        "label's probability, in UTF-8; a label that a spreadsheet would take for a formula has an "
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
    if files := [text for text in arguments.texts if os.path.isfile(text)]:
        problems.append(
            f"TEXT {files[0]}: that is a file; give --csv {files[0]} for a table, or < {files[0]} "
            "for its lines"
        )
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
        use_utf8()
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
