"""The rules on the options that are about one's own texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablation.config.options import ExperimentConfig
from ablation.system.errors import shorten
from ablation.system.files import describe_special, path_problem

DATASET_FLAGS = {
    "text_column",
    "label_column",
    "header",
    "delimiter",
    "encoding",
    "quoting",
    "drop_incomplete",
    "min_texts_per_class",
    "val_fraction",
    "test_fraction",
    "val_dataset",
    "test_dataset",
    "balance",
}  # of use only with --dataset
FRACTIONS = {"val_fraction": "val_dataset", "test_fraction": "test_dataset"}


def dataset_problems(config: ExperimentConfig, given: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each rule that is broken.

    Args:
        given: the options that were set on purpose, with their values.
    """
    if config.dataset is None:
        for name in sorted(DATASET_FLAGS & set(given)):
            yield (
                f"{format_given(name, given[name])}: it is about texts of your own; add --dataset "
                "FILE, or leave it out"
            )
        return
    if config.demo:
        yield f"--dataset {config.dataset} with --demo: both say which texts; leave one out"
    for name in ("dataset", "val_dataset", "test_dataset"):
        yield from _check_file(name, getattr(config, name))
    yield from _check_columns(config)
    yield from encoding_problems(config.encoding)
    for name, other in FRACTIONS.items():
        if name in given and getattr(config, other):
            yield (
                f"{format_given(name, given[name])} with --{other}: that part is not taken from "
                "--dataset; leave it out"
            )
    fractions = [getattr(config, f) for f, other in FRACTIONS.items() if not getattr(config, other)]
    if len(fractions) == 2 and max(fractions) < 1 <= sum(fractions):
        yield (
            f"--val_fraction {config.val_fraction:g} with --test_fraction "
            f"{config.test_fraction:g}: nothing is left for training; choose smaller ones"
        )


def _check_file(name: str, path: str | None) -> Iterator[str]:
    if not path:
        return
    if problem := path_problem(name, path):
        yield problem
    elif not Path(path).exists():
        yield f'--{name} "{path}": no such file'
    elif special := describe_special(Path(path)):
        yield f'--{name} "{path}": no such file; it is {special}. Give a file'


def _check_columns(config: ExperimentConfig) -> Iterator[str]:
    text, label = config.text_column, config.label_column
    if text == label:
        yield f'--text_column "{text}" is also the --label_column: name the two columns'
    elif text.isdecimal() != label.isdecimal():
        yield (
            f'--text_column "{text}" with --label_column "{label}": give two names, or two '
            "numbers (with --header yes if the first line has names)"
        )
    elif config.header == "no" and not text.isdecimal():
        yield (
            f'--header no with --text_column "{text}" and --label_column "{label}": a file without '
            "names has numbers for its columns; give these: 1, 2, ..."
        )


def encoding_problems(name: str) -> Iterator[str]:
    """A sentence if there is no encoding of that name."""
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        yield f"--encoding {name}: no such encoding; give one such as utf-8, cp1252 or utf-16"


def format_given(name: str, value: Any) -> str:
    """A flag as it was given, for a message."""
    return f"--{name}" if value is True else f"--{name} {shorten(value)}"
