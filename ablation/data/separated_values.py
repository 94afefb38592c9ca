"""Lines of CSV and TSV files as rows of fields."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import NamedTuple

from ablation.config.options import DELIMITERS
from ablation.system.errors import DataError

SAMPLE_LINES = 100  # from which the delimiter is found, or the names of JSON
IN_NO_TEXT = "\t|"  # delimiters that hardly any text holds

NumberedLine = tuple[int, str]


@dataclass(frozen=True)
class TextFormat:
    """How a file is to be read; the options of the same names explain it."""

    delimiter: str | None = None  # one of DELIMITERS; by default, found in the file
    encoding: str = "utf-8"
    quoting: str = "auto"
    header: str = "auto"

    def has_names(self, columns: Sequence[str]) -> bool:
        """Whether the first line is one of names."""
        return self.header == "yes" or (self.header == "auto" and not are_positions(columns))


class TableRow(NamedTuple):
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
    lines: Iterator[NumberedLine], columns: Sequence[str], form: TextFormat, path: Path
) -> Iterator[TableRow]:
    """The rows that numbered lines of CSV or TSV make, one line at least. Raises ``DataError`` if
    the delimiter cannot be told, a column is missing, or a row is damaged.

    Args:
        columns: names; or, if all are numbers, positions counted from 1.
        path: the file, for messages; its name may say that it is CSV or TSV.
    """
    csv.field_size_limit(2**31 - 1)  # a long text is not damage; more does not fit everywhere
    quoting = csv.QUOTE_NONE if form.quoting == "none" else csv.QUOTE_MINIMAL
    sample = [next(lines)]
    delimiter = DELIMITERS.get(form.delimiter or "")
    if said := re.fullmatch(r'"?sep=([^\r\n])"?\s*', sample[0][1], re.IGNORECASE):  # as Excel has
        delimiter, sample = delimiter or said[1], []
    else:
        sample += islice(lines, SAMPLE_LINES - 1)
        delimiter = delimiter or _detect_delimiter(sample, columns, quoting, path)
    records = _read_records(chain(sample, lines), delimiter, quoting, path)
    records = dropwhile(lambda record: not record[1], records)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path} is empty.")
    names, width, has_names = first[1], len(first[1]), form.has_names(columns)
    at = find_columns(names, columns, path, are_positions(columns))
    for taken, cells in records if has_names else chain([first], records):
        line = taken[0][0]
        if not cells and width > 1:
            continue
        cells = cells or [""]  # where a row is one text, a blank line is an empty one
        if len(cells) != width:
            raise DataError(
                f"{path}, line {line}: {len(cells)} fields, where the first line has {width}. "
                f"A text that holds a {_describe(delimiter)} or a line break needs quotes around "
                'it: "...".'
            )
        if has_names and width > 1 and cells == names:
            raise DataError(
                f"{path}, line {line}: this is the line of names again, as where files were "
                "joined. Take it out."
            )
        apart: list[list[str]] = []
        if form.quoting == "auto" and any(delimiter in c and re.search("[\r\n]", c) for c in cells):
            if delimiter in IN_NO_TEXT:
                raise merged_rows_error(line, path)
            # One may have more fields: texts without quotes may hold delimiters.
            apart = [text.rstrip("\r\n").split(delimiter) for _, text in taken if text.strip()]
            are_rows = width > 1 and all(len(fields) >= width for fields in apart)
            apart = [[fields[i] for i in at] for fields in apart if are_rows]
        yield TableRow(line, [cells[i] for i in at], cells, apart)


def _read_records(
    lines: Iterator[NumberedLine], delimiter: str, quoting: int, path: Path
) -> Iterator[tuple[list[NumberedLine], list[str]]]:
    """The fields of each row, behind the lines that they were read from."""
    taken: list[NumberedLine] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line[1]

    try:
        for cells in csv.reader(take(), delimiter=delimiter, quoting=quoting, strict=True):
            yield taken[:], cells
            taken.clear()
    except csv.Error as error:
        reason = "a quote is opened and never closed" if "end of data" in str(error) else error
        raise DataError(
            f"{path}, line {taken[0][0]}: {reason}. A field that begins with a quote must end "
            "with one, and quotes inside of it are doubled. If quotes are ordinary characters in "
            "this file, add --quoting none."
        ) from error


def _detect_delimiter(
    sample: Sequence[NumberedLine], columns: Sequence[str], quoting: int, path: Path
) -> str:
    """The delimiter that makes the first lines of a file a table with the columns asked for.

    If none does, the one that comes nearest: then the file has one column, or reading it comes
    upon what is damaged or missing, and names it. If several do, it is a :class:`DataError`.
    """
    lines = [line for _, line in sample]
    fits: dict[str, list[bool]] = {}  # of each delimiter, the strictest test first
    for delimiter in DELIMITERS.values():
        rows: list[list[str]] = []
        is_whole = True
        try:
            for row in csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True):
                rows += [row] if row else []
        except csv.Error as error:
            # A field may go on behind the last line that is looked at.
            is_whole = len(sample) == SAMPLE_LINES and "end of data" in str(error)
        width = len(rows[0]) if rows else 0
        is_even = width > 1 and all(len(row) == width for row in rows)
        by_position = are_positions(columns)
        has_columns = bool(rows) and all(_find(rows[0], name, by_position) for name in columns)
        fits[delimiter] = [
            has_columns and is_even and is_whole,
            has_columns and is_even,
            has_columns and width > 1,
            is_even,
        ]
    fitting = [d for d, tests in fits.items() if tests[0]]
    if len(fitting) > 1 and not (path.suffix.lower() == ".tsv" and "\t" in fitting):
        raise DataError(
            f"{path}: its first lines are a table with {' and '.join(map(_describe, fitting))} as "
            f"well. Say which it is with --delimiter {' or '.join(map(_describe, fitting))}."
        )
    for passed in zip(*fits.values(), strict=True):
        if sum(passed) == 1:
            return list(fits)[passed.index(True)]
    is_tab = path.suffix.lower() == ".tsv" or (path.suffix.lower() != ".csv" and "\t" in lines[0])
    return "\t" if is_tab else ","


def _describe(delimiter: str) -> str:
    """Its name, as --delimiter takes it, or itself."""
    return next((name for name, d in DELIMITERS.items() if d == delimiter), f'"{delimiter}"')


def find_columns(
    first: Sequence[str], columns: Sequence[str], path: Path, by_position: bool = False
) -> list[int]:
    """Where columns are in a first row, by their names or their positions. Raises ``DataError`` if
    one is not there, or more than once."""
    places = []
    for column in columns:
        found = _find(first, column, by_position)
        if by_position and not found:
            raise DataError(
                f"{path} has no column {column[:40]}: its rows have {len(first)} fields."
            )
        if len(found) != 1:
            known = ", ".join(f'"{name.strip()[:40]}"' for name in first[:10])
            n_found = f"{len(found)} columns" if found else "no column"
            raise DataError(
                f'{path} has {n_found} "{column[:60]}"; it has {known}. Name others with '
                "--label_column, --text_column (--column for predict.py) or --group_column. For "
                "CSV and TSV, positions will do, too: 1, 2, ..., with --header yes if the first "
                "line is one of names."
            )
        places += found
    return places


def _find(first: Sequence[str], column: str, by_position: bool) -> list[int]:
    """All places in a row that a column may mean."""
    if not by_position:
        return [i for i, name in enumerate(first) if name.strip() == column]
    # No row is as long as a number of ten digits, and Python reads none of 5,000.
    number = int(column) if len(column) < 10 else 0
    return [number - 1] if 1 <= number <= len(first) else []


def merged_rows_error(line: int, path: Path) -> DataError:
    """The error for a text that seems to be several rows, merged by a stray quote."""
    return DataError(
        f"{path}, line {line}: a quote opens there and closes lines below, and what is between "
        "holds line breaks and delimiters, as if several rows had become one text. If quotes are "
        "ordinary characters in this file, add --quoting none; if it is one text, --quoting csv."
    )


def header_error(path: Path, line: int, cell: str) -> DataError:
    """The error for names of columns where there should be none."""
    return DataError(
        f'{path}, line {line}: "{cell[:60]}" seems to be the name of a column, and positions of '
        "columns mean a file without names. Add --header yes if that line has names, or --header "
        "no if it has none."
    )
