"""How the scripts speak to people: results, errors, exit statuses."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from experiment_config import ConfigError
from interruption import interruptible
from run_records import RecordError
from sweep import RUN_ERRORS, describe_error, is_out_of_memory

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
    logger.handlers[:] = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(logging.INFO)
    try:
        with interruptible():
            return action()
    except ConfigError as error:
        problems = "\n".join(f"  {problem}" for problem in error.problems)
        print(f"Nothing was started:\n{problems}\nSee --help for every flag.", file=sys.stderr)
        return 2
    except (RecordError, *RUN_ERRORS) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"Error: {describe_error(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the results has gone; a last flush would fail too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        print(f"Interrupted. {way_on}".strip(), file=sys.stderr)
        return getattr(error, "exit_status", 130)
