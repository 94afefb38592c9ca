"""The texts that predict.py classifies: of a file, or of standard input."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from ablation.data.decoding import BAD
from ablation.data.own_data import SHOWN
from ablation.data.separated_values import TableRow, TextFormat, header_error, merged_rows_error
from ablation.data.text_files import is_missing, join_cells, read_rows
from ablation.system.errors import DataError

FIRST_ROWS = 100  # that are compared with the first, to find names among texts


def read_texts(
    path: Path, text_columns: Sequence[str], form: TextFormat, label_column: str | None = None
) -> Iterator[TableRow]:
    """The rows of a file: their fields are the text, and the class, if it is asked for. Raises
    ``DataError`` if it cannot be read, quotes may have merged rows, or its first text is a name."""
    columns, n = [*text_columns, *([label_column] if label_column else [])], len(text_columns)
    rows = read_rows(path, columns, form)
    if form.header == "auto" and not form.has_names(columns):
        first_rows = list(islice(rows, FIRST_ROWS))
        if name := _find_name(first_rows):
            raise header_error(path, first_rows[0].line, name)
        rows = chain(first_rows, rows)
    for row in rows:
        if row.apart:
            raise merged_rows_error(row.line, path)
        yield row._replace(fields=[join_cells(row.fields[:n]), *map(str.strip, row.fields[n:])])


def require_known_classes(rows: Iterable[TableRow], class_names: Sequence[str], path: Path) -> None:
    """Raise :class:`DataError` unless the class of each row of a file is one of ``class_names``,
    and there is a row."""
    known, n_rows, n_missing, n_unknown = {*class_names}, 0, 0, 0
    shown: dict[str, int] = {}  # some labels that are wrong, and the first line of each
    for row in rows:
        n_rows += 1
        label = row.fields[-1]
        if label not in known:
            n_missing += is_missing(label)
            n_unknown += not is_missing(label)
            if len(shown) < SHOWN:
                shown.setdefault(label, row.line)
    if not n_rows:
        raise DataError(f"{path} has no rows: there is nothing to measure.")
    if shown:
        examples = ", ".join(f'"{label[:60]}" in line {line}' for label, line in shown.items())
        names = ", ".join(f'"{name[:60]}"' for name in class_names[: 2 * SHOWN])
        raise DataError(
            f"{path}: of {n_rows:,} rows, {n_missing:,} lack a label and {n_unknown:,} have one "
            f"that the model does not know: {examples}. It knows {len(class_names):,} classes: "
            f"{names}. Correct these labels, or take the rows out: no model can be right about "
            "them. (Is --label_column the right one?)"
        )


def _find_name(rows: Sequence[TableRow]) -> str | None:
    """The cell of a first row that is evidently the name of its column; none if no cell is.

    A text may well be like no other. But what stands above numbers only, or above values that
    repeat, such as labels, and is not one of them, is a name, and so is the usual one of texts.
    """
    first, *others = rows or [TableRow(1, [""])]
    if first.fields[0].strip().lower() == "text" and others:
        return first.fields[0]
    for cell, *below in zip(first.cells, *(row.cells for row in others), strict=True):
        are_numbers = len(below) > 2 and all(map(_is_number, below)) and not _is_number(cell)
        repeat = len(below) > 3 and 2 * len(set(below)) <= len(below) and cell not in below
        if are_numbers or repeat:
            return cell
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_lines() -> Iterator[str]:
    """The lines of standard input, which is UTF-8; they end with LF, CRLF or CR. Raises
    ``DataError`` if a line is not UTF-8, or no text."""
    # Bytes that are not UTF-8 are marked, so that a line is complained of when its turn has come.
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="mark", newline=None)
    for number, line in enumerate(sys.stdin, start=1):
        if bad := BAD.search(line):
            reason = f"byte 0x{ord(bad[0]) & 0xFF:02x} at place {bad.start() + 1} is not UTF-8"
            if bad[0] == "\0":
                reason = "a NUL byte, which no text holds"
            is_wide = "\0" in line or line.startswith(("\udcff\udcfe", "\udcfe\udcff"))  # its mark
            likely = "utf-16" if is_wide else "cp1252"
            raise DataError(
                f"Standard input, line {number}: {reason}. Give UTF-8; if this is {likely}, "
                f"`iconv -f {likely} -t utf-8` converts it."
            )
        yield line.removesuffix("\n")
