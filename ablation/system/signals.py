"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside, where modules are imported and nothing is to be saved, either signal ends the
    process. An exception would not do: packages may swallow it while they are imported."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of torchrun's processes, one speaks
            print(
                "Interrupted while modules were loaded. Nothing is lost.",
                file=sys.stderr,
                flush=True,
            )
        os._exit(128 + number)

    with _handling(end):
        yield


class DeferredSignals:
    """In its ``with`` statement the first signal waits to be heeded; a second does not.

    Args:
        agree: makes of the number of the signal that waits here, or 0, the one that all processes
            of the run heed.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self._agree = agree
        self._signal: int | None = None  # that waits
        self._handlers = _handling(self._note)

    def __enter__(self) -> DeferredSignals:
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Interrupted(number)
        self._signal = number
        logger.info("Stopping after this step. Once more stops at once.")

    def heed(self, before: Callable[[], None] = lambda: None) -> None:
        """If a signal waits, in this process or in another of the run, stop all of them here.

        Args:
            before: what is still to be done then.

        Raises:
            Interrupted: it does.
        """
        if waiting := self._agree(self._signal or 0):
            before()
            raise Interrupted(waiting)


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
