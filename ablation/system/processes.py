"""Which of torchrun's processes this one is, by its environment. PyTorch is not needed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is: of all, and of those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def words(self) -> str:
        """The process, for people."""
        return f"process {self.rank} of {self.size} on {socket.gethostname()}"


def place() -> Place:
    """Which process this is, by what torchrun says; the only one without it."""
    if not is_launched():
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


def is_launched() -> bool:
    """Whether torchrun started this process, as ``dist.is_torchelastic_launched`` finds it out."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process prints and writes."""
    return place().rank == 0


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Inside, a process other than the first prints nothing: no results, bars or notices."""
    with ExitStack() as stack:
        if not is_first():
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
        yield
