"""Texts from standard input, line by line."""

from __future__ import annotations

import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator

from errors import DataError


def read_lines() -> Iterator[str]:
    """The lines of standard input, which is UTF-8; they end with LF, CRLF or CR.

    Raises:
        DataError: a line is not UTF-8, or no text.
    """
    # Bytes that are no UTF-8 are kept, so that a line is complained of when its turn has come.
    sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline=None)
    for number, line in enumerate(sys.stdin, start=1):
        _require_text(line.encode("utf-8", "surrogateescape"), f"Standard input, line {number}")
        yield line.removesuffix("\n")


def _require_text(line: bytes, place: str) -> None:
    """Raise :class:`DataError` unless a line is UTF-8 without NUL bytes."""
    try:
        if b"\0" not in line:
            line.decode("utf-8")
            return
        reason = "a NUL byte, which no text holds"
    except UnicodeDecodeError as error:
        reason = f"byte 0x{line[error.start]:02x} at place {error.start + 1} is not UTF-8"
    likely = "utf-16" if b"\0" in line or line[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "cp1252"
    raise DataError(
        f"{place}: {reason}. Give UTF-8; if this is {likely}, `iconv -f {likely} -t utf-8` "
        "converts it."
    )
