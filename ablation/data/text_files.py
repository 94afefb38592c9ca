"""Tables of texts as people have them: the bytes of a file become rows of fields.

CSV and TSV, JSON lines and Parquet, each also as .gz. Every error names the file, the line and
what to do.
"""

import functools
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from ablation.data.decoding import decode_lines, require_text
from ablation.data.separated_values import (
    SAMPLE_LINES,
    NumberedLine,
    TableRow,
    TextFormat,
    are_positions,
    find_columns,
    separate,
)
from ablation.system.errors import DataError, logger
from ablation.system.files import describe_special

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# What pandas takes for a missing value, and the text of none.
MISSING = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
BATCH = 1024  # rows of a Parquet file that are read at once


def read_rows(
    path: Path, columns: Sequence[str], form: TextFormat | None = None
) -> Iterator[TableRow]:
    """The rows of a table, one after the other. Raises ``DataError`` if it cannot be read, is not
    such a table, lacks a column, or a row is damaged.

    Args:
        columns: names; or, if all are numbers, positions counted from 1 in CSV and TSV.
        form: what is known about the file.
    """
    form = form or TextFormat()
    try:
        if special := describe_special(path):
            raise DataError(f"{path} cannot be read: it is {special}. Give a file.")
        with open(path, "rb") as file:
            is_packed = file.peek(2)[:2] == b"\x1f\x8b"
            # Both have peek(), which the types of Python do not say.
            stream: Any = gzip.GzipFile(fileobj=file) if is_packed else file
            head = stream.peek(4096)[:4096]
            if head.startswith(b"PAR1"):
                # Parquet has its index at its end, from which what is packed cannot be read.
                yield from _parquet_rows(
                    io.BytesIO(stream.read()) if is_packed else file, columns, path
                )
                return
            require_text(head, form.encoding, path)
            lines = decode_lines(stream, form.encoding, path)
            first = next(lines, None)
            if first is None:
                raise DataError(f"{path} is empty.")
            lines = chain([first], lines)
            may_be_json = not form.delimiter and not are_positions(columns) and _is_object(first[1])
            if path.name.lower().removesuffix(".gz").endswith(JSON_SUFFIXES) or may_be_json:
                yield from _json_rows(lines, columns, path)
            else:
                yield from separate(lines, columns, form, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged .gz file ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def is_missing(cell: str) -> bool:
    """Whether a cell holds nothing, or a name for it."""
    return cell.strip() in MISSING


def join_cells(cells: Sequence[str]) -> str:
    """The text that one or several columns make: a line break is between them, and of several,
    those that are missing are empty."""
    if len(cells) == 1:
        return cells[0]
    return "\n".join("" if is_missing(cell) else cell for cell in cells)


def announce_columns(columns: Sequence[str]) -> None:
    """Say that several columns make one text."""
    if len(columns) > 1:
        names = " and ".join(f'"{name[:60]}"' for name in columns)
        logger.info("A text is what stands in %s, with a line break between them", names)


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json_rows(
    lines: Iterator[NumberedLine], columns: Sequence[str], path: Path
) -> Iterator[TableRow]:
    objects = _json_objects(lines, columns, path)
    sample = list(islice(objects, SAMPLE_LINES))
    if not sample:
        raise DataError(f"{path} is empty.")
    # An object may lack what is missing in it, also the first one.
    names = list(dict.fromkeys(name for _, values in sample for name in values))
    keys = [names[i] for i in find_columns(names, columns, path)]
    for number, values in chain(sample, objects):
        yield TableRow(number, [values.get(key, "") for key in keys])


def _json_objects(
    lines: Iterator[NumberedLine], columns: Sequence[str], path: Path
) -> Iterator[tuple[int, dict[str, str]]]:
    """The number and the object of each line of JSON. Values of other columns are left empty."""
    # Numbers stay as they are written.
    as_written = {"parse_int": str, "parse_float": str, "parse_constant": str}
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_require_single, **as_written)
            if not isinstance(values, dict):
                raise ValueError("it is not an object")
            texts = {
                name: _as_text(value, name) if name.strip() in columns else ""
                for name, value in values.items()
            }
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: {str(error)[:200]}. Each line of a JSON file must be an "
                'object, such as {"Label": "ham", "Text": "See you!"}.'
            ) from error
        yield number, texts


def _require_single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("it has a key twice")
    return values


def _parquet_rows(stream: BinaryIO, columns: Sequence[str], path: Path) -> Iterator[TableRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path} is a Parquet file, which needs pyarrow: pip install pyarrow, or save it as "
            "CSV."
        ) from error
    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(stream, page_checksum_verification=True)
        names = file.schema_arrow.names
        wanted = [names[i] for i in find_columns(names, columns, path)]
        for batch in file.iter_batches(BATCH, columns=wanted):
            fields = zip(*(batch.column(name).to_pylist() for name in wanted), strict=True)
            for values in fields:
                number += 1
                for value, name in zip(values, wanted, strict=True):
                    if isinstance(value, float):
                        _announce_floats(path, name)
                yield TableRow(number, list(map(_as_text, values, wanted)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # it has errors of all three
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}, after row {number}: {reason}. Fetch it again, or save it as CSV."
        ) from error


@functools.cache  # once, however often a file is read
def _announce_floats(path: Path, column: str) -> None:
    message = '%s: the numbers of the column "%s" are floating-point and read as 3.0, where other '
    message += "files may have 3. Make the column one of whole numbers or of text if it is meant so"
    logger.warning(message, path, column[:60])


def _as_text(value: Any, column: str) -> str:
    """A value of a typed format as CSV has it; what is missing is empty. Raises ``ValueError`` if
    it is not a single value, or not text that can be written."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError(f'the column "{column[:60]}" holds a {type(value).__name__}, not text')
    str(value).encode()  # half of a surrogate pair is not text
    return str(value)
