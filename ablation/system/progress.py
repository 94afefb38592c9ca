"""How far work has come: a bar on a terminal, and elsewhere a plain line now and then."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from ablation.system.errors import logger

LINE_SECONDS = 30.0  # between two lines, and before the first
BYTES = "bytes"  # the unit whose amounts are shortened, as 12.3M

Item = TypeVar("Item")


class Progress:
    """Shows in its ``with`` statement how much of some work is done. Short work logs no lines.

    Args:
        what: is being done.
        unit: of its amounts, in the plural.
        total: amount; none where it is unknown.
        leave: whether the bar stays when the work is done.
    """

    def __init__(self, what: str, unit: str, total: int | None, *, leave: bool = True) -> None:
        self._what, self._unit, self._total, self._done = what, unit, total, 0
        self._bar = tqdm(
            total=total,
            desc=what,
            unit="B" if unit == BYTES else f" {unit}",
            unit_scale=unit == BYTES,
            leave=leave,
            disable=None,
        )
        self._started = self._line_time = time.monotonic()
        self._line_done: int | None = None  # when the last line was logged

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if kind is None and self._line_done not in (None, self._done):
            self._log()

    def update(self, amount: int) -> None:
        """Note that ``amount`` more is done."""
        self._done += amount
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._line_time >= LINE_SECONDS:
            self._log()

    def _log(self) -> None:
        self._line_time, self._line_done = time.monotonic(), self._done
        of_total = f" of {self._amount(self._total)}" if self._total else ""
        done, seconds = self._amount(self._done), self._line_time - self._started
        logger.info("%s: %s%s %s, %.0f s", self._what, done, of_total, self._unit, seconds)

    def _amount(self, amount: int) -> str:
        return tqdm.format_sizeof(amount) if self._unit == BYTES else f"{amount:,}"


def follow(
    items: Iterable[Item], what: str, unit: str, total: int | None = None, *, leave: bool = True
) -> Iterator[Item]:
    """The items, while :class:`Progress` shows how many are done."""
    with Progress(what, unit, total, leave=leave) as progress:
        for item in items:
            yield item
            progress.update(1)
