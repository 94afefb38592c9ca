"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ablation.system.errors import logger


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

    with _handled_by(raise_at_once):
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside, where modules are imported and there is nothing to save, either signal ends the
    process. An exception would not: packages may swallow it while they are imported."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one of torchrun's processes speaks
            words = "Interrupted while modules were loaded. Nothing is lost."
            print(words, file=sys.stderr, flush=True)
        os._exit(128 + number)

    with _handled_by(end):
        yield


class DeferredSignals:
    """In its ``with`` statement, the first signal waits for :meth:`raise_if_stopped`; a second
    stops at once.

    Args:
        agree: turns the number of the signal that waits in this process (0: none) into the one
            that all processes of the run act on.
    """

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self._agree = agree
        self._waiting = 0
        self._handlers = _handled_by(self._note)

    def __enter__(self) -> "DeferredSignals":
        self._handlers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            raise Interrupted(number)
        self._waiting = number
        logger.info("Stopping after this step. Once more stops at once.")

    def raise_if_stopped(self, before: Callable[[], None] = lambda: None) -> None:
        """Raise :class:`Interrupted` if a signal waits, in this process or in another of the run.

        Args:
            before: what is still to be done then.
        """
        if number := self._agree(self._waiting):
            before()
            raise Interrupted(number)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python gives signals to the main thread only
        return
    # A process that was started to ignore a signal, as by nohup, goes on ignoring it.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
