"""Lines of CSV and TSV files as rows of fields."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ablation.config.options import DELIMITERS
from ablation.data.delimiters import describe_delimiter, detect_delimiter
from ablation.system.errors import DataError

SAMPLE_LINES = 100  # from which the delimiter is found, or the names of JSON
IN_NO_TEXT = "\t|"  # delimiters that hardly any text holds


@dataclass(frozen=True)
class TextFormat:
    """How a file is to be read; the options of the same names explain it."""

    delimiter: str | None = None  # one of DELIMITERS; none is found from the file
    encoding: str = "utf-8"
    quoting: str = "auto"
    header: str = "auto"

    def has_names(self, columns: Sequence[str]) -> bool:
        """Whether the first line is one of names."""
        return self.header == "yes" or (self.header == "auto" and not are_positions(columns))


class Row(NamedTuple):
    """A row of a table: the fields of the columns that were asked for, and where they stand."""

    line: int  # its first line in the file, or its row in a Parquet file; counted from 1
    fields: list[str]
    cells: Sequence[str] = ()  # of all columns, in CSV and TSV
    # Those fields in each of its lines, if these could be rows that a stray quote has merged.
    apart: Sequence[list[str]] = ()


def are_positions(columns: Sequence[str]) -> bool:
    """Whether columns are given by their positions, and not by their names."""
    return all(name.isdecimal() for name in columns)


def separate(
    lines: Iterator[tuple[int, str]], columns: Sequence[str], form: TextFormat, path: Path
) -> Iterator[Row]:
    """The rows that lines of CSV or TSV make.

    Args:
        lines: with their numbers.
        columns: names; or, if all are numbers, positions counted from 1.
        path: the file, for messages; its name may say that it is CSV or TSV.

    Raises:
        DataError: the delimiter cannot be told, a column is missing, or a row is damaged.
    """
    csv.field_size_limit(2**31 - 1)  # a long text is no damage; more does not fit everywhere
    quoting = csv.QUOTE_NONE if form.quoting == "none" else csv.QUOTE_MINIMAL
    options = {"quoting": quoting, "strict": True}
    delimiter, lines = _take_delimiter(lines, columns, form, path, options)
    record: list[tuple[int, str]] = []  # the lines of the row that is being read
    reader = csv.reader(_recorded(lines, record), delimiter=delimiter, **options)
    names_follow, names, at, width = form.has_names(columns), [], [], 0
    try:
        for cells in reader:
            line = record[0][0]
            if cells and not width:
                at, width = _find_columns(cells, columns, path), len(cells)
            if not cells and width == 1:
                cells = [""]  # where a row is one text, a blank line is an empty one
            if cells and len(cells) != width:
                raise DataError(
                    f"{path}, line {line}: {len(cells)} fields, where the first line has {width}. "
                    f"A text that holds a {describe_delimiter(delimiter)} or a line break needs "
                    'quotes around it: "...".'
                )
            if names_follow:
                names = cells
            elif cells and width > 1 and cells == names:
                raise DataError(
                    f"{path}, line {line}: this is the line of names again, as where files were "
                    "joined. Take it out."
                )
            elif cells:
                apart: list[list[str]] = []
                if form.quoting == "auto" and _may_be_merged(cells, delimiter):
                    if delimiter in IN_NO_TEXT:
                        raise merged(line, path)
                    apart = _take_apart([text for _, text in record], delimiter, width)
                yield Row(line, [cells[i] for i in at], cells, [[c[i] for i in at] for c in apart])
            names_follow = names_follow and not cells
            record.clear()
    except csv.Error as error:
        reason = "a quote is opened and never closed" if "end of data" in str(error) else error
        raise DataError(
            f"{path}, line {record[0][0]}: {reason}. A field that begins with a quote must end "
            "with one, and quotes inside of it are doubled. If quotes are ordinary characters in "
            "this file, add --quoting none."
        ) from error
    if not width:
        raise DataError(f"{path} is empty.")


def _take_delimiter(
    lines: Iterator[tuple[int, str]],
    columns: Sequence[str],
    form: TextFormat,
    path: Path,
    options: dict[str, Any],
) -> tuple[str, Iterator[tuple[int, str]]]:
    """What separates the fields of some lines, and the lines, without Excel's that says so."""
    first = next(lines)
    delimiter = DELIMITERS.get(form.delimiter or "")
    if said := re.fullmatch(r'"?sep=([^\r\n])"?\s*', first[1], re.IGNORECASE):
        return delimiter or said[1], lines
    sample = [first, *itertools.islice(lines, SAMPLE_LINES - 1)]
    delimiter = delimiter or detect_delimiter(
        [line for _, line in sample],
        len(sample) == SAMPLE_LINES,
        lambda row: all(_find(row, name, are_positions(columns)) for name in columns),
        path,
        **options,
    )
    return delimiter, itertools.chain(sample, lines)


def merged(line: int, path: Path) -> DataError:
    """The error for a text that seems to be several rows, merged by a stray quote."""
    return DataError(
        f"{path}, line {line}: a quote opens there and closes lines below, and what is between "
        "holds line breaks and delimiters, as if several rows had become one text. If quotes are "
        "ordinary characters in this file, add --quoting none; if it is one text, --quoting csv."
    )


def find_names(names: Sequence[str], columns: Sequence[str], path: Path) -> list[int]:
    """Where the columns of some names are among all names.

    Raises:
        DataError: one is not there, or more than once.
    """
    places = [_find(names, name, False) for name in columns]
    for name, found in zip(columns, places, strict=True):
        if len(found) != 1:
            known = ", ".join(f'"{known.strip()[:40]}"' for known in names[:10])
            raise DataError(
                f'{path} has {len(found)} columns "{name[:60]}"; it has {known}. Name others with '
                "--label_column and --text_column (--column for predict.py). For CSV and TSV, "
                "positions will do, too: 1, 2, ..., with --header yes if the first line is one of "
                "names."
            )
    return [found[0] for found in places]


def _find_columns(first: Sequence[str], columns: Sequence[str], path: Path) -> list[int]:
    """Where columns are in a row, by their names or their positions.

    Raises:
        DataError: one is not there, or more than once.
    """
    if not are_positions(columns):
        return find_names(first, columns, path)
    places = [_find(first, column, True) for column in columns]
    for column, found in zip(columns, places, strict=True):
        if not found:
            raise DataError(
                f"{path} has no column {column[:40]}: its rows have {len(first)} fields."
            )
    return [found[0] for found in places]


def _find(first: Sequence[str], column: str, is_position: bool) -> list[int]:
    """All places in a row that a column may mean."""
    if not is_position:
        return [i for i, name in enumerate(first) if name.strip() == column]
    # No row is as long as a number of ten digits, and Python reads none of 5,000.
    number = int(column) if len(column) < 10 else 0
    return [number - 1] if 1 <= number <= len(first) else []


def _recorded(lines: Iterable[tuple[int, str]], record: list[tuple[int, str]]) -> Iterator[str]:
    for line in lines:
        record.append(line)
        yield line[1]


def _may_be_merged(cells: Sequence[str], delimiter: str) -> bool:
    """Whether a field of a row holds both line breaks and delimiters."""
    return any(delimiter in cell and ("\n" in cell or "\r" in cell) for cell in cells)


def _take_apart(lines: Iterable[str], delimiter: str, width: int) -> list[list[str]]:
    """The lines of a row as rows of their own; none if one has too few fields. One may have more:
    texts without quotes may hold delimiters."""
    rows = [line.rstrip("\r\n").split(delimiter) for line in lines if line.strip()]
    return rows if width > 1 and all(len(fields) >= width for fields in rows) else []
