"""What people read: results on standard output, and the form of all that is logged.

Names, labels, paths and answers of servers come from outside. Whatever they hold, they give no
orders: characters that would act on a terminal are shown as escapes, such as ``\\x1b``, and a
spreadsheet gets no formulas.
"""

import io
import logging
import re
import sys
import unicodedata
from pathlib import Path

from ablation.system.errors import logger

# Control characters, Unicode's line breaks, and what is invisible: marks of direction, joiners,
# surrogates.
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def print_lines(text: str) -> None:
    """Print lines of results. Values that may hold line breaks must be :func:`printable` before
    they enter one."""
    write(_printable_lines(text))


def write(text: str) -> None:
    """Print a text as it is, at once, above the progress bar if there is one."""
    from tqdm import tqdm  # the rest of this file needs no package

    tqdm.write(text)
    sys.stdout.flush()


def open_page(path: Path) -> None:
    """Open a page in the browser of this desktop; where there is none, say where the page is."""
    import webbrowser  # which most commands do without

    try:
        is_open = webbrowser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        is_open = False
    if not is_open:
        logger.warning("No browser could be opened. The page is %s", path.resolve())


def use_utf8() -> None:
    """Write UTF-8 from now on, whatever the locale: programs need every character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """A text on one line, with escapes for characters that a terminal would obey or hide."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ACTING
        else character
        for character in text
    )


def count(n: int, what: str) -> str:
    """How many there are of something: 1 run, 2 runs."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def disarm(cell: str) -> str:
    """A cell of a CSV file, with an apostrophe before it if a spreadsheet would compute it.

    That is what begins with ``=``, ``+``, ``-`` or ``@``, also in full width, and behind what a
    spreadsheet skips; and what begins with a tab or a line break. Numbers stay.
    """
    shown = (c for c in unicodedata.normalize("NFKC", cell) if c.isprintable() and not c.isspace())
    is_formula = next(shown, "") in tuple("=+-@") or cell[:1] in tuple("\t\r\n")
    return f"'{cell}" if is_formula and not NUMBER.fullmatch(cell) else cell


class LogFormatter(logging.Formatter):
    """Formats log records without orders to the terminal. Only the message itself may break lines,
    not the values in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        values = tuple(
            value if isinstance(value, int | float) else printable(str(value))
            for value in record.args or ()
        )
        return _printable_lines(str(record.msg) % values if values else str(record.msg))


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
