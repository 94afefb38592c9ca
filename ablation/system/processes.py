"""Which of torchrun's processes this one is, by its environment. PyTorch is not needed."""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Which process this is of all that torchrun launched, and of those on this machine."""

    rank: int = 0
    n_launched: int = 1
    local_rank: int = 0
    n_local: int = 1

    @property
    def words(self) -> str:
        """The process, for people."""
        return f"process {self.rank} of {self.n_launched} on {socket.gethostname()}"


def place() -> Place:
    """Which process this is; the only one without torchrun."""
    if not is_launched():
        return Place()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Place(*(int(os.environ[name]) for name in names))


def is_launched() -> bool:
    """Whether torchrun started this process, as ``dist.is_torchelastic_launched`` checks it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process prints and writes."""
    return place().rank == 0
