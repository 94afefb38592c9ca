"""How the scripts speak to people: flags, errors, exit statuses."""

import argparse
import errno
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn

from ablation.system.errors import (
    LESS_MEMORY,
    ConfigError,
    ExperimentError,
    Problem,
    describe_error,
    is_out_of_memory,
    logger,
    shorten,
)
from ablation.system.output import LogFormatter, printable
from ablation.system.processes import is_first, is_launched
from ablation.system.signals import interruptible
from ablation.system.version import PROJECT

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Parser(argparse.ArgumentParser):
    """Reports its errors like all other problems of the command line.

    A flag with ``action=Once`` may be repeated with the same value; one that contradicts itself is
    among the ``problems``, after parsing.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.problems: list[Problem] = []
        self.given: dict[str, Any] = {}  # values of flags with the action Once

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError`."""
        raise ConfigError([Problem("", message)])


class Once(argparse.Action):
    """Stores the only value of a flag of :class:`Parser`."""

    def __call__(self, parser: Parser, namespace: Any, values: Any, flag: Any = None) -> None:
        """Note a problem if another value was given before."""
        if parser.given.setdefault(self.dest, values) != values:
            both = " and ".join(
                f"{flag} {shorten(value if isinstance(value, str) else ' '.join(value))}"
                for value in (parser.given[self.dest], values)
            )
            sentence = "they contradict each other; give one of them"
            parser.problems.append(Problem(both, sentence))
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
        with _quiet_unless_first(), interruptible():
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(LogFormatter())
            logger.handlers[:] = [handler]
            logger.setLevel(logging.INFO)
            return action()
    except KeyboardInterrupt as error:
        _explain(error, f"Interrupted. {way_on}".strip())
        return getattr(error, "exit_status", 130)
    except ConfigError as error:
        problems = (f"  {problem}" for problem in error.problems)
        _explain(error, "Nothing was started:", *problems, "See --help for every flag.")
        return 2
    except ImportError as error:
        _explain(error, f"Error: {_describe_missing_package(error)}")
    except OSError as error:
        # Nobody may read the results any more. Then a last flush would fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            way_out = " Make room, or look at the disk." if error.errno in DISK_ERRORS else ""
            _explain(error, f"Error: {shorten(error)}.{way_out}")
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, ExperimentError) or is_out_of_memory(error)):
            raise
        _explain(error, f"Error: {describe_error(error, less_memory)}")
    return 1


@contextmanager
def _quiet_unless_first() -> Iterator[None]:
    """Inside, no process but the first prints anything: no results, bars or notices."""
    if is_first():
        yield
        return
    nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    with nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def _explain(error: BaseException, *lines: str) -> None:
    """Print on standard error why the script ends.

    Line breaks and orders to a terminal within the lines are shown as escapes.
    """
    message = "\n".join(map(printable, lines))
    if is_launched():
        from ablation.system.parallel import explain  # with PyTorch, which takes seconds

        explain(message, error)
    else:
        print(message, file=sys.stderr)


def _describe_missing_package(error: ImportError) -> str:
    """Which package is missing or broken, and the way out."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"the package {error.name.partition('.')[0]} is not installed"
    else:
        what = f"a package cannot be imported ({str(error).splitlines()[0]})"
    python, requirements = map(shlex.quote, (sys.executable, str(PROJECT / "requirements.txt")))
    return (
        f"{what} for {python}. Activate the virtual environment that has it, or install what is "
        f"needed: {python} -m pip install -r {requirements}"
    )


def _repair_streams() -> None:
    """Replace closed streams by empty ones, and show what an encoding lacks as escapes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
