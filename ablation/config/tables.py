"""A table of experiments: its rows with their questions, and which of them are compared."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ablation.config.commands import SCRIPT, configure_flags, format_flags
from ablation.config.options import ExperimentConfig, without
from ablation.system.errors import Problem, shorten

Name = int | str  # of a row

N_SHOWN = 10  # names of rows, in a message


@dataclass(frozen=True)
class Published:
    """What a source has published of a row: accuracies in percent, and minutes."""

    train: float | None = None
    validation: float | None = None
    test: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table: what it asks, its flags, its published figures."""

    name: Name
    question: str
    flags: dict[str, Any]
    published: Published = Published()

    @cached_property
    def config(self) -> ExperimentConfig:
        """The row as an experiment."""
        return configure(self, {})

    @property
    def command(self) -> str:
        """The row as a line for a shell."""
        return f"{SCRIPT} {format_flags(self.flags)}".rstrip()


class Comparison(NamedTuple):
    """What two rows are to answer: the second against the first."""

    question: str
    rows: tuple[Name, Name]


@dataclass(frozen=True)
class Table:
    """Rows by their names, and the comparisons between them."""

    title: str
    rows: dict[Name, Row]
    comparisons: tuple[Comparison, ...]
    source: str = ""

    @property
    def common_flags(self) -> dict[str, Any]:
        """The flags that all rows have."""
        first, *others = (row.flags.items() for row in self.rows.values())
        return {name: v for name, v in first if all((name, v) in flags for flags in others)}

    def row_of(self, config: ExperimentConfig) -> Row | None:
        """The row that an experiment is; none if it is none of them."""
        return next((row for row in self.rows.values() if not differing(config, row)), None)

    def nearest_row(self, config: ExperimentConfig) -> Row | None:
        """The row that is in the experiment with most of its flags: one without flags, if there is
        one, where no other is."""
        within = [
            row
            for row in self.rows.values()
            if all(getattr(config, name) == value for name, value in row.flags.items())
        ]
        return max(within, key=lambda row: len(row.flags), default=None)


def configure(row: Row | None, given: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of a row, or of none, with flags beside it, as :func:`configure_flags`."""
    return configure_flags(row.flags if row else {}, given)


def differing(config: ExperimentConfig, row: Row) -> dict[str, Any]:
    """The options that make ``config`` a variant of ``row`` and not the row."""
    values = {name: getattr(config, name) for name in without("circumstance", "repeat")}
    return {name: v for name, v in values.items() if v != getattr(row.config, name)}


def parse_rows(text: str, table: Table) -> tuple[list[Name], list[Problem]]:
    """The rows that a text like 1-5,16 or 1 16 or all selects, and a problem for each part that is
    none. Names hold no commas."""
    if text == "all":
        return list(table.rows), []
    named = {str(name): name for name in table.rows}
    names: list[Name] = []
    problems = []
    for part in text.split(","):
        whole = part.strip()
        words = [whole] if whole in named else re.sub(r"\s*-\s*", "-", whole).split()
        for word in words or [whole]:
            ends = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", word)
            # No list of a billion rows for a slip of the finger.
            selected = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else ()
            if word in named:
                names.append(named[word])
            elif selected and table.rows.keys() >= {*selected}:
                names += selected
            else:
                which = f": {shorten(word)}" if word != text else ""
                choices = describe_names(table.rows)
                sentence = f"no such row{which}; give {choices}, or all, or list"
                problems.append(Problem(f"--rows {shorten(text)}", sentence))
    return list(dict.fromkeys(names)), problems


def describe_names(names: Collection[Name]) -> str:
    """What a row may be called, for a message."""
    if all(isinstance(name, int) for name in names):
        return f"numbers from {min(names)} to {max(names)}, as in 1-5,16"
    shown = [f'"{name}"' for name in names][:N_SHOWN]
    return ", ".join([*shown, "..."] if len(names) > N_SHOWN else shown)
