"""How the scripts speak to people: results, errors, exit statuses."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ablation.system.errors import (
    LESS_MEMORY,
    ConfigError,
    ExperimentError,
    describe_error,
    is_out_of_memory,
    shorten,
)
from ablation.system.output import LogFormatter, printable
from ablation.system.processes import is_launched, quiet_unless_first
from ablation.system.signals import interruptible
from ablation.system.version import PROJECT

logger = logging.getLogger("experiments")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
REQUIREMENTS = PROJECT / "requirements.txt"


class Parser(argparse.ArgumentParser):
    """Reports its errors like all other problems of the command line.

    A flag with ``action=Once`` may be repeated with the same value; one that contradicts itself is
    among the ``problems``, after parsing.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.problems: list[str] = []
        self.given: dict[str, Any] = {}  # values of flags with the action Once

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError`."""
        raise ConfigError([message])


class Once(argparse.Action):
    """Stores the value of a flag of :class:`Parser`, of which there can be only one."""

    def __call__(
        self,
        parser: Parser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Note a problem if another value was given before."""
        if parser.given.setdefault(self.dest, values) != values:
            both = " and ".join(
                f"{option_string} {shorten(value if isinstance(value, str) else ' '.join(value))}"
                for value in (parser.given[self.dest], values)
            )
            parser.problems.append(f"{both}: they contradict each other; give one of them")
        setattr(namespace, self.dest, values)


def run_for_people(
    action: Callable[[], int], way_on: str = "", less_memory: str = LESS_MEMORY
) -> int:
    """Run what a script does, and explain on standard error what goes wrong.

    Args:
        way_on: how to go on after an interruption.
        less_memory: what to do where memory is short.

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
        _explain("Nothing was started:", *problems, "See --help for every flag.")
        return 2
    except ExperimentError as error:
        _explain(f"Error: {error}")
        return 1
    except ImportError as error:
        _explain(f"Error: {_describe_lack(error)}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _explain(f"Error: {describe_error(error, less_memory)}")
        return 1
    except OSError as error:
        # Whoever read the results may have gone, which he knows. A last flush would fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            way_out = " Make room, or look at the disk." if error.errno in DISK_ERRORS else ""
            _explain(f"Error: {shorten(error)}.{way_out}")
        return 1
    except KeyboardInterrupt as error:
        _explain(f"Interrupted. {way_on}".strip())
        return getattr(error, "exit_status", 130)


def _explain(*lines: str) -> None:
    """Print on standard error why the script ends.

    What the lines hold of line breaks and orders to a terminal is shown as escapes.
    """
    message = "\n".join(map(printable, lines))
    if is_launched():
        from ablation.system.parallel import (
            explain,  # PyTorch, which --help and wrong flags need not wait for
        )

        explain(message)
    else:
        print(message, file=sys.stderr)


def _describe_lack(error: ImportError) -> str:
    """Which package is missing or broken, and the way out."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"the package {error.name.partition('.')[0]} is not installed"
    else:
        what = f"a package cannot be imported ({str(error).splitlines()[0]})"
    python = shlex.quote(sys.executable)
    return (
        f"{what} for {python}. Activate the virtual environment that has it, or install what is "
        f"needed: {python} -m pip install -r {shlex.quote(str(REQUIREMENTS))}"
    )


def _repair_streams() -> None:
    """Streams that were closed become empty ones, and characters that cannot be shown numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
