"""Lines of results."""

from __future__ import annotations

import sys


def report(line: str) -> None:
    """Print a line of results at once, above the progress bar if there is one."""
    from tqdm import tqdm  # nothing else here needs it

    tqdm.write(line)
    sys.stdout.flush()


def printable(text: str) -> str:
    """A text on one line, without the characters that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)
