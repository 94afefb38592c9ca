"""The delimiter of a CSV or TSV file, found from its first lines or not at all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.config.options import DELIMITERS
from ablation.system.errors import DataError


@dataclass(frozen=True)
class _Trial:
    """What first lines are with one delimiter."""

    rows: list[list[str]]  # up to the first that is damaged
    is_whole: bool  # whether none is
    has_columns: bool  # whether they are those that are asked for

    @property
    def is_even(self) -> bool:
        """Whether the rows have the same number of fields, two or more."""
        return bool(self.rows) and {len(row) for row in self.rows} == {max(2, len(self.rows[0]))}


def detect_delimiter(
    lines: Sequence[str],
    is_cut: bool,
    has_columns: Callable[[list[str]], bool],
    path: Path,
    **options: Any,
) -> str:
    """The delimiter that makes the first lines of a file a table with the columns asked for.

    Args:
        is_cut: whether more lines follow.
        has_columns: whether a first row has these columns.
        options: the other ones of the ``csv`` module.

    Raises:
        DataError: several do.
    """
    trials = {d: _try(lines, is_cut, has_columns, d, options) for d in DELIMITERS.values()}
    fitting = [d for d, t in trials.items() if t.has_columns and t.is_even and t.is_whole]
    if len(fitting) > 1 and not (path.suffix.lower() == ".tsv" and "\t" in fitting):
        found = " and ".join(map(describe_delimiter, fitting))
        raise DataError(
            f"{path}: its first lines are a table with {found} as well. Say which it is with "
            f"--delimiter {' or '.join(map(describe_delimiter, fitting))}."
        )
    if len(fitting) == 1:
        return fitting[0]
    # What follows gives no rows that are wrong: either the file has one column, or reading it
    # comes upon what is damaged or missing, and names it.
    for fits in (
        lambda trial: trial.has_columns and trial.is_even,
        lambda trial: trial.has_columns and len(trial.rows[0]) > 1,
        lambda trial: trial.is_even,
    ):
        found = [d for d, trial in trials.items() if fits(trial)]
        if len(found) == 1:
            return found[0]
    is_tab = path.suffix.lower() == ".tsv" or (path.suffix.lower() != ".csv" and "\t" in lines[0])
    return "\t" if is_tab else ","


def describe_delimiter(delimiter: str) -> str:
    """Its name, as --delimiter takes it, or itself."""
    return next((name for name, d in DELIMITERS.items() if d == delimiter), f'"{delimiter}"')


def _try(
    lines: Sequence[str],
    is_cut: bool,
    has_columns: Callable[[list[str]], bool],
    delimiter: str,
    options: dict[str, Any],
) -> _Trial:
    rows: list[list[str]] = []
    is_whole = True
    try:
        for row in csv.reader(lines, delimiter=delimiter, **options):
            rows += [row] if row else []
    except csv.Error as error:
        # A field may go on behind the last line that is looked at.
        is_whole = is_cut and "end of data" in str(error)
    return _Trial(rows, is_whole, bool(rows) and has_columns(rows[0]))
