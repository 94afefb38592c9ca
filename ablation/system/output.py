"""What people read: results on standard output, and the form of all that is logged.

Names, labels, paths and answers of servers come from outside. Whatever they hold, they give a
terminal no orders: characters that would act on it are shown as escapes, such as ``\\x1b``.
"""

from __future__ import annotations

import io
import logging
import sys
import unicodedata

# Control characters, line breaks of Unicode's, and what is unseen: marks of direction, joiners,
# surrogates.
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def print_lines(text: str) -> None:
    """Print lines of results. A value that may hold line breaks is made :func:`printable` before
    it enters one."""
    write(_printable_lines(text))


def write(text: str) -> None:
    """Print a text as it is, at once, above the progress bar if there is one."""
    from tqdm import tqdm  # nothing else here needs it

    tqdm.write(text)
    sys.stdout.flush()


def use_utf8() -> None:
    """Write UTF-8 from here on, whatever the locale is: what programs read needs all characters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """A text on one line, with escapes for characters that a terminal would obey, or hide."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ACTING
        else character
        for character in text
    )


class LogFormatter(logging.Formatter):
    """Log records without orders to the terminal: line breaks are those of the message itself, not
    of what enters it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        values = tuple(
            value if isinstance(value, int | float) else printable(str(value))
            for value in record.args or ()
        )
        return _printable_lines(str(record.msg) % values if values else str(record.msg))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
