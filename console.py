"""How the scripts speak to people: results, errors, exit statuses."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from errors import ConfigError, ExperimentError
from interruption import interruptible
from output import LogFormatter
from parallel import explain, quiet_unless_first
from sweep import describe_error, is_out_of_memory

logger = logging.getLogger("experiments")


class Parser(argparse.ArgumentParser):
    """Reports its errors like all other problems of the command line."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError`."""
        raise ConfigError([message])


def run_for_people(action: Callable[[], int], way_on: str = "") -> int:
    """Run what a script does, and explain on standard error what goes wrong.

    Args:
        way_on: how to go on after an interruption.

    Returns:
        The exit status: what ``action`` returns, 2 for wrong usage, 1 for other faults, and 130 or
        143 if it was interrupted.
    """
    _repair_streams()
    try:
        with quiet_unless_first(), interruptible():
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(LogFormatter())
            logger.handlers[:] = [handler]
            logger.setLevel(logging.INFO)
            return action()
    except ConfigError as error:
        problems = (f"  {problem}" for problem in error.problems)
        explain("Nothing was started:", *problems, "See --help for every flag.")
        return 2
    except ExperimentError as error:
        explain(f"Error: {error}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        explain(f"Error: {describe_error(error)}")
        return 1
    except OSError as error:
        # Whoever read the results may have gone, which he knows. A last flush would fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            explain(f"Error: {error}. Make room, or look at the disk.")
        return 1
    except KeyboardInterrupt as error:
        explain(f"Interrupted. {way_on}".strip())
        return getattr(error, "exit_status", 130)


def _repair_streams() -> None:
    """Streams that were closed become empty ones, and characters that cannot be shown numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
