"""Classify texts with a model that additional_experiments.py --save_model kept."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat, tee
from pathlib import Path
from typing import TYPE_CHECKING

from ablation.config.flag_types import Number, Text, one_of, option, options_of, read_flags
from ablation.config.flags import add_flags
from ablation.config.options import COLUMN, COLUMNS, OPTIONS, split_columns, tagged
from ablation.config.rules import column_problems, encoding_problems
from ablation.config.runs import CONFIG_NAME
from ablation.data.separated_values import TextFormat
from ablation.finetuning.prediction_lines import FORMATS, format_head, format_prediction
from ablation.system.console import Parser, run_for_people
from ablation.system.errors import ConfigError, Problem, logger, shorten
from ablation.system.files import checksum_file, path_fault, path_problem
from ablation.system.output import print_lines, printable, use_utf8, write
from ablation.system.signals import ending_at_once

if TYPE_CHECKING:  # imported where texts are classified: --help and mistakes need no PyTorch
    from ablation.classifier.saved_models import SavedClassifier

LESS_MEMORY = (
    "Use --device cpu to take no GPU memory; otherwise use a machine with more memory, or a "
    "smaller model."
)
PAGE_SUFFIXES = (".html", ".htm")
FORMAT_OPTIONS = tuple(vars(TextFormat()))  # of a file of texts; the experiments have them, too


@dataclass(frozen=True)
class Flags:
    """The flags; each field is the flag of the same name."""

    csv: str | None = option(None, Text("FILE"))
    """file of texts: CSV, TSV, JSON lines or Parquet, or one of them as .gz"""
    column: str | None = option(None, COLUMNS, nargs="+")
    """name of its text column, or its number from 1, for files whose first line has no names (if
    it has, add --header yes); several columns are one text, a line break between them. By default,
    those that the model was trained on"""
    label_column: str | None = option(None, COLUMN)
    """name of the column of true classes, or its number: print how well they are told apart, in
    place of the predictions; with --format, print both, and the figures on standard error"""
    format: str = option("text", one_of(*FORMATS))
    """output format: text (for people), csv (the text's number from 0, its label, and the label's
    probability, in UTF-8; a label that a spreadsheet would take for a formula has an apostrophe
    before it), jsonl (lines of JSON with the exact label, its probability and the text)"""
    probabilities: str = option("best", one_of("best", "all"))
    """whether to print the probability of the best class, or of all, the most probable first; in
    csv, each class then has a column"""
    top: int | None = option(None, Number())
    """print the N most probable classes of each text, with their probabilities"""
    by_token: bool = option(False)
    """for TEXT or lines of standard input: print what the model would say after each token, and
    after each padding token where padding counts"""
    html: str | None = option(None, Text("FILE"))
    """with --by_token: write the same as a page, each text as a strip of coloured tokens"""
    weights: str | None = option(None, Text("PATH"))
    """the base weights, if they are not where they were"""


# With those of the experiments that are about a file of texts, and about this machine.
FLAGS = options_of(Flags) | {
    name: OPTIONS[name] for name in (*FORMAT_OPTIONS, "weights_dir", "device", "offline")
}


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        usage="python predict.py RUN_DIR [TEXT ...] [--flag value ...]",
        description=__doc__,
        epilog="Without TEXT and --csv, every line of standard input is a text.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?", help="the run's folder")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="what to classify")
    add_flags(parser, FLAGS.values())
    return parser


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for. Raises :class:`ConfigError` with every problem of it."""
    parser = build_parser()
    found = vars(parser.parse_intermixed_args(argv))
    values = {name: flag.default for name, flag in FLAGS.items()}
    values |= {name: found.pop(name) for name in ("run_dir", "texts")}
    given, problems = read_flags(FLAGS, found)
    arguments = argparse.Namespace(**values | given)
    arguments.form = TextFormat(**{name: getattr(arguments, name) for name in FORMAT_OPTIONS})
    arguments.print = arguments.label_column is None or "format" in given
    problems = [*parser.problems, *problems, *_problems(arguments, given)]
    if problems:
        raise ConfigError(problems)
    return arguments


def _problems(arguments: argparse.Namespace, given: Collection[str]) -> Iterator[Problem]:
    """What is wrong with a command line besides single values.

    Args:
        given: the flags that were given.
    """
    folder = Path(arguments.run_dir or "")
    with_a_model = "the folder of a run with --save_model"
    if not arguments.run_dir:
        yield Problem("RUN_DIR", f"missing; give {with_a_model} before all flags")
    elif fault := path_fault(folder):
        yield Problem(shorten(folder, 60), fault)
    elif not folder.is_dir():
        yield Problem(str(folder), f"no such folder; give {with_a_model}")
    if arguments.csv is not None and arguments.texts:
        yield Problem("TEXT with --csv", "give one of them")
    of_files = [name for name in ("column", "label_column", *FORMAT_OPTIONS) if name in given]
    if arguments.csv is None and of_files:
        flags = ", ".join(f"--{name}" for name in of_files)
        yield Problem(f"{flags} without --csv FILE", "it is about a file; add it, or leave it out")
    if arguments.column:
        yield from _column_problems(arguments, arguments.column)
    yield from encoding_problems(arguments.form.encoding)
    if arguments.top and arguments.probabilities == "all":
        yield Problem(f"--top {arguments.top} with --probabilities all", "give one of them")
    if not arguments.print and (arguments.top or arguments.probabilities == "all"):
        yield Problem(
            "--top and --probabilities with --label_column",
            "the figures are printed in place of the predictions; add --format text, csv or jsonl "
            "to have both",
        )
    yield from _by_token_problems(arguments)
    if any(text and os.path.isfile(os.path.join(text, CONFIG_NAME)) for text in arguments.texts):
        yield Problem("more than one RUN_DIR", "give the folder of one run")
    for file in [text for text in arguments.texts if os.path.isfile(text)][:1]:
        yield Problem(
            f"TEXT {file}",
            f"that is a file; give --csv {file} for a table, or < {file} for its lines",
        )
    for name in ("csv", "html"):
        path = getattr(arguments, name)
        if path and (problem := path_problem(name, path)):
            yield problem


def _column_problems(arguments: argparse.Namespace, column: str) -> Iterator[Problem]:
    labels = {"label_column": arguments.label_column} if arguments.label_column else {}
    yield from column_problems({"column": column, **labels}, arguments.header)


def _by_token_problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    """What does not go with --by_token, and what goes with nothing else."""
    path = arguments.html
    if path and not arguments.by_token:
        sentence = "it is a page of tokens; add --by_token, or leave it out"
        yield Problem("--html without --by_token", sentence)
    elif path and (fault := _page_fault(path, arguments.run_dir)):
        yield Problem(f"--html {path}", fault)
    if not arguments.by_token:
        return
    if arguments.csv is not None:
        yield Problem(
            "--by_token with --csv",
            "it is about a few texts, not about a file; give TEXT, or lines of standard input",
        )
    if arguments.top or arguments.probabilities == "all":
        yield Problem(
            "--by_token with --top or --probabilities",
            "it has the probability of the class that the text is given; leave them out, or add "
            "--format jsonl alone, which has all classes",
        )


def _page_fault(path: str, run_dir: str | None) -> str | None:
    """Why no page can be written to a path; none if one can."""
    if os.path.isdir(path):
        return "that is a folder; give a file, such as tokens.html"
    if not os.path.isdir(os.path.dirname(path) or "."):
        return "there is no such folder to write it to; make it, or name another"
    if _is_for_other_things(Path(path), run_dir):
        return (
            "that is no name of a page, and would replace what is there or belongs to the run; "
            "give one that ends in .html"
        )
    return None


def _is_for_other_things(path: Path, run_dir: str | None) -> bool:
    """Whether a file that is no page by its name is there, or would lie in the run's folder."""
    if path.suffix.lower() in PAGE_SUFFIXES:
        return False
    return path.is_file() or (
        os.path.isdir(run_dir or "") and os.path.samefile(path.parent, run_dir)
    )


def perform(argv: Sequence[str] | None) -> int:
    """Classify what is asked for. Returns the exit status.

    Raises:
        ExperimentError: the command line is wrong, or texts, vocabulary, model or base weights are
            missing or damaged.
        ImportError: a package is missing.
    """
    with ending_at_once():
        arguments = parse_command_line(argv)
        from ablation.classifier.saved_models import load_classifier
        from ablation.data.corpora import load_encoding
        from ablation.data.texts_to_classify import read_lines
        from ablation.finetuning.classify import TEXTS_AT_ONCE, classify_texts
        from ablation.finetuning.metrics import format_accuracy, format_metrics, measure_counts

    given = {name: getattr(arguments, name) for name in tagged("machine")}
    folder = Path(arguments.run_dir)
    classifier = load_classifier(folder, {name: value for name, value in given.items() if value})
    names, column = classifier.class_names, arguments.column or classifier.text_column
    problems = list(_column_problems(arguments, column)) if arguments.csv is not None else []
    if arguments.top and arguments.top > len(names):
        words = f"the model has {len(names):,} classes; give no more, or --probabilities all"
        problems.append(Problem(f"--top {arguments.top:,}", words))
    if problems:
        raise ConfigError(problems)
    texts, labels = arguments.texts, repeat(None)
    if arguments.csv is not None:
        texts, labels = _read_file(arguments, split_columns(column), classifier)
    texts = texts or read_lines()
    if arguments.by_token:
        _print_by_token(arguments, classifier, texts)
        return 0
    is_typed = not arguments.texts and arguments.csv is None and sys.stdin.isatty()
    by_class = arguments.probabilities == "all"
    predictions = classify_texts(
        classifier,
        load_encoding(classifier.config),
        texts,
        at_once=1 if is_typed else TEXTS_AT_ONCE,
        top=len(names) if by_class else arguments.top or 0,
    )
    columns = names if by_class else ()
    if arguments.format == "csv" and arguments.print:
        use_utf8()
        write(format_head(columns, arguments.top or 1, bool(arguments.label_column)))
    width, blank = max(len(printable(label)) for label in names), 0
    counts: Counter[tuple[str | None, str]] = Counter()
    for number, (prediction, label) in enumerate(zip(predictions, labels, strict=False)):
        if arguments.print:
            line = format_prediction(number, prediction, arguments.format, width, columns, label)
            write(line)
        counts[label, prediction.label] += 1
        blank += not prediction.text.strip()
    if blank:
        logger.warning("Blank texts, classified like the others: %d of %d", blank, number + 1)
    if arguments.label_column:
        metrics = measure_counts(counts, names)
        figures = f"{format_accuracy(metrics)}\n{format_metrics(metrics, recorded=False)}"
        logger.info(figures) if arguments.print else print_lines(figures)
    return 0


def _print_by_token(
    arguments: argparse.Namespace, classifier: SavedClassifier, texts: Iterable[str]
) -> None:
    """Print what the model says of each text after each token, and write it as a page, if that is
    asked for. Raises ``DataError`` if a text is not Unicode, or the page cannot be written."""
    from ablation.data.corpora import load_encoding
    from ablation.finetuning.by_token import read_by_token
    from ablation.finetuning.token_lines import HEAD, format_by_token

    encoding, shown = load_encoding(classifier.config), []
    if arguments.format == "csv":
        use_utf8()
        write(HEAD)
    for number, text in enumerate(texts):
        read = read_by_token(classifier, encoding, text, number + 1)
        for line in format_by_token(number, read, arguments.format):
            write(line)
        if read.n_cut:
            logger.warning("Text %d: %s", number + 1, read.cut_words)
        if arguments.html:
            shown.append(read)
    if arguments.html:
        from ablation.reports.token_strip import write_page

        write_page(Path(arguments.html), shown)
        logger.info("Page: %s", arguments.html)


def _read_file(
    arguments: argparse.Namespace, columns: Sequence[str], classifier: SavedClassifier
) -> tuple[Iterator[str], Iterator[str | None]]:
    """The texts of a file, and the true class of each, or none. Raises ``DataError`` if it cannot
    be read, or has a class that the model does not know."""
    from ablation.data.text_files import announce_columns
    from ablation.data.texts_to_classify import read_texts, require_known_classes

    announce_columns(columns)
    path, label_column = Path(arguments.csv), arguments.label_column
    rows = read_texts(path, columns, arguments.form, label_column)
    if not label_column:
        return (row.fields[0] for row in rows), repeat(None)
    require_known_classes(rows, classifier.class_names, path)  # reading twice is the lesser work
    if checksum_file(path) == classifier.data_sha256:
        logger.warning("%s: the model was trained on texts of this file", path)
    rows, again = tee(read_texts(path, columns, arguments.form, label_column))
    return (row.fields[0] for row in rows), (row.fields[-1] for row in again)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status: 0, 2 for wrong usage, 1 for other faults."""
    with ending_at_once():  # from the first moment on
        return run_for_people(lambda: perform(argv), less_memory=LESS_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
