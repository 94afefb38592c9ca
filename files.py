"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import glob
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFT_OVER_SECONDS = 86_400  # no file takes that long to be written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: what is written there gets that name when it is complete.

    So no half-written file ever has the name, also when the machine stops.
    """
    # What is that old, a process left that was killed.
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFT_OVER_SECONDS:
                leftover.unlink()
    # Not by the process's number: two containers have the same ones, and may share a folder.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(usual_mode)  # not every writer gives it
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
