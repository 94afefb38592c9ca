"""Finetune a GPT-2 as a classifier, to find out which choices matter: the script.

``flags.py`` has what can be asked for, ``runner.py`` does it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ablation.system.signals import ending_at_once


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status: 0, 2 for wrong usage, 1 for other faults."""
    arguments = sys.argv[1:] if argv is None else argv
    with ending_at_once():  # from the first moment on
        from ablation.system.console import run_for_people

        return run_for_people(
            lambda: answer(arguments),
            way_on="With --resume a run goes on from here, and a sweep with the same command.",
        )


def answer(arguments: Sequence[str]) -> int:
    """Do what a command line asks for. Returns the exit status, as :func:`runner.perform` does.

    Raises:
        ConfigError: with every problem of the command line.
        ImportError: a package is missing.
    """
    with ending_at_once():
        from ablation.config.command_line import parse_command_line

        request = parse_command_line(arguments)
        if request.text is not None:
            print(request.text, flush=True)
            return 0
        from runner import perform  # with PyTorch, which takes seconds: help and mistakes do not

    return perform(request)


if __name__ == "__main__":
    sys.exit(main())
