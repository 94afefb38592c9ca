"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablation.system.errors import shorten

LEFT_OVER_SECONDS = 86_400  # no file takes that long to be written
ROOM = os.path.join("x" * 120, "x" * 80)  # below a folder that is written to, no path is longer
FAULTS = {
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; give another path",
}


def path_fault(path: str | Path, below: str = "") -> str | None:
    """What is wrong with a path, whatever is or is not there; none if nothing is.

    Args:
        below: what is to be possible below it.
    """
    try:
        os.stat(os.path.join(path, below))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return FAULTS.get(error.errno, f"it cannot be reached ({error.strerror})")
    except ValueError:
        return "it holds a null byte, which no path can"
    return None


def path_problem(name: str, path: str | Path, below: str = "") -> str | None:
    """The same for the path of the flag ``name``, as a sentence."""
    fault = path_fault(path, below)
    return f'--{name} "{shorten(path, 60)}": {fault}' if fault else None


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


SPECIAL = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe (FIFO)",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def describe_special(path: Path) -> str | None:
    """What a path is that is no file; none for a file. It is not opened, so nothing waits.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    mode = path.stat().st_mode
    return next((name for is_kind, name in SPECIAL.items() if is_kind(mode)), None)


def checksum_file(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            checksum.update(piece)
    return checksum.hexdigest()


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The object that a text of JSON is.

    Raises:
        ValueError: it is no JSON, or no object, or holds NaN or Infinity, which JSON does not know.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
