"""A few lines at the foot of a terminal that are drawn again and again, below all that is printed.

Whatever is written to standard output or standard error meanwhile appears above them, and goes
where it always went: what is no terminal is left alone.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from rich.console import Console
from rich.text import Text

from ablation.system.errors import describe_error, logger

REDRAW_SECONDS = 0.5


def find_terminal() -> Console | None:
    """Standard error as a terminal whose lines can be drawn again; none if it is none."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    console = Console(stderr=True, force_terminal=True, highlight=False, markup=False)
    return None if console.is_dumb_terminal or console.legacy_windows else console


class LiveArea:
    """Lines at the foot of a terminal, in its ``with`` statement; the last ones stay.

    The cursor waits below them and is never hidden, so whatever ends the process leaves the
    terminal as it should be.

    Args:
        console: from :func:`find_terminal`.
        render: gives the lines for a terminal of so many columns and lines.
    """

    def __init__(self, console: Console, render: Callable[[int, int], list[Text]]) -> None:
        self._console, self._render = console, render
        self._terminal = sys.stderr
        self._drawn: list[int] = []  # how wide each line is that is on the screen
        self._drawn_time = 0.0
        self._waiting: list[tuple[TextIO, str]] = []  # what is to be written above
        self._is_busy = False  # a signal's handler may write in the middle of it
        self._is_broken = False

    def __enter__(self) -> "LiveArea":
        self._streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        handlers = logger.handlers
        self._handlers = [h for h in handlers if getattr(h, "stream", None) is self._terminal]
        try:
            for name, stream in self._streams.items():
                if stream.isatty():
                    setattr(sys, name, _Above(self, stream))
            for handler in self._handlers:
                with suppress(OSError):  # it empties the stream that it had
                    handler.setStream(sys.stderr)
        except BaseException:  # also a signal's: then nobody leaves what was not entered
            self._restore()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._is_busy = False  # whatever was interrupted
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, _Above):
                    stream.finish()
            self._draw()
        finally:
            self._restore()

    def _restore(self) -> None:
        """Put the streams back where they were."""
        for name, stream in self._streams.items():
            setattr(sys, name, stream)
        for handler in self._handlers:
            handler.setStream(self._terminal)

    def refresh(self) -> None:
        """Draw the lines again, unless that was done a moment ago."""
        if time.monotonic() - self._drawn_time >= REDRAW_SECONDS:
            self._draw()

    def write_above(self, stream: TextIO, text: str) -> None:
        """Write whole lines to a stream, above the area."""
        self._waiting.append((stream, text))
        self._draw()

    def _draw(self) -> None:
        if self._is_busy:
            return
        self._is_busy = True
        try:
            columns, rows = self._size()
            lines = self._lines(columns, rows)
            start = self._erasing(columns, rows)
            self._drawn = []
            while self._waiting:
                self._write(self._terminal, start)
                start = ""
                self._write(*self._waiting.pop(0))
            with self._console.capture() as captured:
                for line in lines:
                    line.truncate(columns - 1)  # a full line would wrap
                    self._console.print(line, soft_wrap=True)
            self._write(self._terminal, start + captured.get())
            self._drawn = [line.cell_len for line in lines]
            self._drawn_time = time.monotonic()
        finally:
            self._is_busy = False

    def _write(self, stream: TextIO, text: str) -> None:
        """Write a text at once, as the next may go to another file. Where the terminal has gone,
        the panel is lost and the work goes on; errors of standard output are raised."""
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # it was hung up, or closed
            if stream is not self._terminal:
                raise
            self._is_broken = True

    def _lines(self, columns: int, rows: int) -> list[Text]:
        """What is to be drawn, a column and a line smaller than the terminal."""
        if self._is_broken:
            return []
        try:
            return self._render(columns - 1, rows)[: rows - 1]
        except Exception as error:  # whatever it is: what goes on above is worth more
            self._is_broken = True
            logger.warning("The panel cannot be drawn: %s", describe_error(error))
            return []

    def _size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; some say that they have none, or have gone."""
        try:
            columns, rows = os.get_terminal_size(self._terminal.fileno())
        except OSError:
            self._is_broken, columns, rows = True, 0, 0
        return columns or 80, rows or 24

    def _erasing(self, columns: int, rows: int) -> str:
        """What erases the lines, with the cursor where they began.

        In a terminal that became too small for them, nobody knows where they are: some wrap what
        no longer fits, others cut it. There all that is on the screen is pushed up.
        """
        if not self._drawn:
            return ""
        if max(self._drawn) >= columns or len(self._drawn) >= rows:
            return "\n" * rows + "\x1b[H"
        return f"\r\x1b[{len(self._drawn)}A\x1b[J"


class _Above(io.TextIOBase):
    """A stream whose whole lines appear above a live area. Programs that ask whether it is a
    terminal, as those that draw bars do, are told that it is none."""

    def __init__(self, area: LiveArea, stream: TextIO) -> None:
        self._area, self._stream, self._line = area, stream, ""

    @property
    def encoding(self) -> str:
        """The stream's."""
        return self._stream.encoding

    def fileno(self) -> int:
        """The stream's."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write what is whole, and keep the beginning of a line until the rest comes."""
        lines, end, self._line = (self._line + text).rpartition("\n")
        if end:
            self._area.write_above(self._stream, lines + end)
        return len(text)

    def finish(self) -> None:
        """Write the line that has no end."""
        if self._line:
            self.write("\n")
