"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("experiments")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_status = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, either signal raises :class:`Interrupted` wherever the program is."""

    def raise_at_once(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handling(raise_at_once):
        yield


class Patience:
    """In its ``with`` statement the first signal waits until :meth:`check`; a second does not."""

    def __init__(self) -> None:
        self.signal: int | None = None  # that waits
        self._handlers = _handling(self._note)

    def __enter__(self) -> Patience:
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted(number)
        self.signal = number
        logger.info("Stopping after this step. Once more stops at once.")

    def check(self) -> None:
        """Raise :class:`Interrupted` if a signal waits."""
        if self.signal is not None:
            raise Interrupted(self.signal)


@contextmanager
def _handling(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread alone
        return
    # What was started to ignore a signal, as by nohup, goes on ignoring it.
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
