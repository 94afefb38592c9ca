"""Lines of results."""

from __future__ import annotations

import sys
import unicodedata

# Control characters, line breaks of Unicode's, and what is unseen: marks of direction, joiners,
# surrogates.
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def report(line: str) -> None:
    """Print a line of results at once, above the progress bar if there is one."""
    from tqdm import tqdm  # nothing else here needs it

    tqdm.write(line)
    sys.stdout.flush()


def printable(text: str) -> str:
    """A text on one line, with escapes for characters that a terminal would obey, or hide."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ACTING
        else character
        for character in text
    )
