"""The bytes of a text file become lines; files that are not text are named for what they are."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ablation.system.errors import DataError

READ = "CSV, TSV, JSON lines, Parquet, and each of them as .gz"

# How other files begin, what they are, and what to do with them.
SIGNATURES = {
    rb"PK\x03\x04": "a zip, as Excel workbooks (.xlsx) are; unzip it, or save as CSV UTF-8 there",
    rb"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls); save it as CSV UTF-8 there",
    rb"%PDF-": "a PDF",
    rb"\{\\rtf": "a document of a word processor (RTF); save it as plain text",
    rb"BZh[1-9]1AY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!\x1a": "packed; unpack it",
    rb"\x1f\x8b": "packed twice as .gz; unpack it",
    rb".{257}ustar": "a tar archive; unpack it",
    rb"SQLite format 3\0": "an SQLite database; export the table as CSV",
    rb"ARROW1|FEA1|\xff\xff\xff\xff.{3}\0\x10\0\0\0": "an Arrow file; save it as Parquet",
    rb"\x89HDF|\x93NUMPY|Obj\x01|\x80[\x02-\x05]": "data of another program; export them as CSV",
    rb"\x89PNG|\xff\xd8\xff|GIF8[79]a": "a picture",
    rb"\x7fELF": "a program",
    rb"version https://git-lfs": "only a pointer of git-lfs; fetch the file with git lfs pull",
    rb"\s*<(!doctype|html|\?xml)": "a page of HTML or XML, perhaps what a download gave instead",
    rb"\s*\[\s*\{": "a JSON array; save it with one object a line (jq -c '.[]')",
    rb"\s*\{\s*[\r\n]": "JSON on several lines; save it with one object a line (jq -c .)",
}
BAD = re.compile("[\0\ud800-\udfff]")  # NUL, or what the error handler "mark" makes of a byte
# ASCII, and marks of bytes that are characters of Western Windows.
WESTERN = re.compile("[\0-\x7f\udc80\udc82-\udc8c\udc8e\udc91-\udc9c\udc9e-\udcff]*")


def _mark(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate for a byte that cannot be decoded: no text holds any, so the line shows."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return chr(0xDC00 + error.object[error.start]), error.start + 1


codecs.register_error("mark", _mark)


def require_text(head: bytes, encoding: str, path: Path) -> None:
    """Raise :class:`DataError` if a file is not text, going by its first bytes."""
    for signature, found in SIGNATURES.items():
        if re.match(signature, head, re.DOTALL | re.IGNORECASE):
            raise DataError(f"{path} is {found}. What is read is {READ}.")
    fitting = _find_wide(head)
    if fitting and not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        raise DataError(
            f"{path} is not {encoding.upper()}, but seems to be {fitting.upper()}: add --encoding "
            f"{fitting}."
        )


def _find_wide(head: bytes) -> str | None:
    """The encoding of two or four bytes that some bytes seem to be in: they begin with its mark,
    or every other one is a zero."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first, second = head[::2].count(0), head[1::2].count(0)
    if max(first, second) <= len(head) / 4 or min(first, second) > len(head) / 20:
        return None
    return "utf-16-be" if first > second else "utf-16-le"


def decode_lines(stream: BinaryIO, encoding: str, path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, and with their ends, as ``csv`` wants them.

    A lone carriage return ends a line, but is counted as one only if it ends the first, too:
    editors do the same. A byte that is not text in this encoding raises :class:`DataError`.
    """
    number, counted, is_ascii = 1, "\n", True
    try:
        for line in io.TextIOWrapper(stream, encoding, errors="mark", newline=""):
            if number == 1:
                line = line.removeprefix("\ufeff")
                counted = line[-1:] if line.endswith("\r") else "\n"
            if not line.isascii() or "\0" in line:
                if bad := BAD.search(line):
                    reason = _explain(line, bad[0], encoding, is_ascii)
                    raise DataError(f"{path}, line {number}: {reason}")
                # But for what an earlier program could not read.
                is_ascii = is_ascii and line.replace("\ufffd", "").isascii()
            yield number, line
            number += line.endswith(counted)
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding.upper()}: {error}.") from error


def _explain(line: str, bad: str, encoding: str, is_ascii: bool) -> str:
    """What is wrong with a line, all lines before it being ASCII or not; and what to do."""
    if bad == "\0":
        return f"a NUL byte, which no text holds. What is read is {READ}."
    reason = f"not {encoding.upper()}: byte 0x{ord(bad) & 0xFF:02x}. "
    is_western = WESTERN.fullmatch(line) and 3 * len(BAD.findall(line)) <= len(line)
    if codecs.lookup(encoding).name.startswith("utf-8") and is_ascii and is_western:
        return reason + "If it was saved by Windows, add --encoding cp1252; or save it as UTF-8."
    return reason + "Save the file as UTF-8, or name its encoding with --encoding."
