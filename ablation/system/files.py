"""Files: written whole or not at all, and checked before they are used."""

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

from ablation.system.errors import DataError, Problem, shorten

LEFT_OVER_SECONDS = 3_600  # nobody who is writing a file pauses that long
ROOM = os.path.join("x" * 120, "x" * 80)  # no path below a folder that is written to is longer
FAULTS = {
    errno.ENAMETOOLONG: "the name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; give another path",
}


def path_fault(path: str | Path, below: str = "") -> str | None:
    """What is wrong with a path, whether or not it exists, so that ``below`` fits below it; none
    if nothing is."""
    try:
        os.stat(os.path.join(path, below))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return FAULTS.get(error.errno, f"it cannot be reached ({error.strerror})")
    except ValueError:
        return "it holds a null byte, which no path can"
    return None


def path_problem(name: str, path: str | Path, below: str = "") -> Problem | None:
    """The same as a problem of the flag ``name``."""
    fault = path_fault(path, below)
    return Problem(f'--{name} "{shorten(path, 60)}"', fault) if fault else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``. What is written there gets that name when it is complete,
    so that no half-written file ever has it, even if the machine stops."""
    clear_leftovers(path)
    # Not named by process number: two containers have the same ones, and may share a folder.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(usual_mode)  # not every writer keeps it
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(path: Path, seconds: float = LEFT_OVER_SECONDS) -> None:
    """Delete what killed processes left of ``path``: what has not changed for so long. Whoever is
    writing that still fails with ``OSError``."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= seconds:
                leftover.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_asked_for(name: str, path: Path, content: bytes) -> None:
    """Write a file where a person asked for it, whole or not at all. Raises ``DataError`` if it
    cannot be written.

    Args:
        name: what the message begins with, such as the flag and its value.
    """
    try:
        write_atomically(path, content)
    except (OSError, ValueError) as error:
        reason = path_fault(path) or getattr(error, "strerror", None) or error
        raise DataError(
            f"{name} cannot be written: the folder {path.absolute().parent} does not take it "
            f"({reason}). Name a file in another folder."
        ) from error


SPECIAL = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe (FIFO)",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def describe_special(path: Path) -> str | None:
    """What a path is if not a file; none for a file. It is not opened, so nothing waits. Raises
    ``OSError`` if it cannot be reached."""
    mode = path.stat().st_mode
    return next((name for is_kind, name in SPECIAL.items() if is_kind(mode)), None)


def checksum_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Raises ``OSError`` if it cannot be read."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            checksum.update(piece)
    return checksum.hexdigest()


def parse_json(text: str | bytes) -> dict[str, Any]:
    """The object in a text of JSON. Raises ``ValueError`` if it is not JSON, is not an object, or
    holds NaN or Infinity, which are not JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not valid JSON")

    try:
        content = json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content
