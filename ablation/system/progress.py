"""How far work has come: a bar on a terminal, and elsewhere a plain line now and then; or what else
shows it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from ablation.system.errors import logger

LINE_SECONDS = 30.0  # between two lines, and before the first
BYTES = "bytes"  # the unit whose amounts are shortened, as 12.3M

Item = TypeVar("Item")
Show = Callable[["Progress"], None]

_shows: list[Show] = []  # what shows work instead of bars and lines: the last one


class Progress:
    """Shows in its ``with`` statement how much of some work is done. Short work logs no lines.

    Args:
        what: is being done.
        unit: of its amounts, in the plural.
        total: amount; none where it is unknown.
        leave: whether the bar stays when the work is done.
    """

    def __init__(self, what: str, unit: str, total: int | None, *, leave: bool = True) -> None:
        self.what, self.unit, self.total, self.done = what, unit, total, 0
        self._show = _shows[-1] if _shows and unit != BYTES else None
        self._bar = tqdm(
            total=total,
            desc=what,
            unit="B" if unit == BYTES else f" {unit}",
            unit_scale=unit == BYTES,
            leave=leave,
            disable=True if self._show else None,
        )
        self._started = self._line_time = time.monotonic()
        self._skipped = 0
        self._line_done: int | None = None  # when the last line was logged

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if kind is None and self._line_done not in (None, self.done):
            self._log()

    def skip(self, amount: int) -> None:
        """Note that ``amount`` was done before, which says nothing of how long the rest takes."""
        self._skipped = self._bar.initial = amount
        self.update(amount)

    def update(self, amount: int) -> None:
        """Note that ``amount`` more is done."""
        self.done += amount
        if self._show:
            self._show(self)
            return
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._line_time >= LINE_SECONDS:
            self._log()

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed until now; none where that is not known."""
        done = self.done - self._skipped
        if not self.total or done <= 0:
            return None
        return (time.monotonic() - self._started) / done * (self.total - self.done)

    def _log(self) -> None:
        self._line_time, self._line_done = time.monotonic(), self.done
        of_total = f" of {self._amount(self.total)}" if self.total else ""
        done, seconds = self._amount(self.done), self._line_time - self._started
        logger.info("%s: %s%s %s, %.0f s", self.what, done, of_total, self.unit, seconds)

    def _amount(self, amount: int) -> str:
        return tqdm.format_sizeof(amount) if self.unit == BYTES else f"{amount:,}"


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Inside, ``show`` is called whenever more of some work is done, in place of a bar and lines.
    Downloads keep theirs."""
    _shows.append(show)
    try:
        yield
    finally:
        _shows.remove(show)


def follow(
    items: Iterable[Item], what: str, unit: str, total: int | None = None, *, leave: bool = True
) -> Iterator[Item]:
    """The items, while :class:`Progress` shows how many are done."""
    with Progress(what, unit, total, leave=leave) as progress:
        for item in items:
            yield item
            progress.update(1)
