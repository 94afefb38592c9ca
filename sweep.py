"""Many runs in one process: what is done is left alone, and what is common is computed once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from data_utils import DataError
from experiment import SharedWork, describe_data, run_experiment, sharing_order
from experiment_config import ConfigError
from experiment_rows import find_row, format_command
from frozen_features import HiddenStateError
from gpt_model import CheckpointError
from run_records import Run, find_complete, identify, write_complete, write_failed
from training import TrainingError, report

logger = logging.getLogger("experiments")

# What can go wrong in a run without being wrong in the program.
RUN_ERRORS = (
    ConfigError,
    DataError,
    CheckpointError,
    HiddenStateError,
    TrainingError,
    MemoryError,
    torch.OutOfMemoryError,
)


def run_and_record(run: Run, output_dir: Path, shared: SharedWork | None = None) -> Path:
    """Run one experiment and write its record, complete or failed. Returns its folder.

    Raises:
        RecordError: the record cannot be written.
        One of ``RUN_ERRORS``, when it was recorded.
    """
    try:
        shared = shared or SharedWork([run.config])
        result = run_experiment(run.config, shared)
    except RUN_ERRORS as error:
        write_failed(output_dir, run, describe_error(error))
        raise
    return write_complete(output_dir, run, result, describe_data(shared.messages, run.config))


def describe_error(error: Exception) -> str:
    """What went wrong, and the way out, for people."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return (
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more'}. A smaller "
            "--batch_size, --context_length or --model_size needs less, and so does LoRA."
        )
    return str(error)


def order_runs(runs: Sequence[Run]) -> list[Run]:
    """Each different run once, in the order in which most is shared."""
    different: dict[str, Run] = {}
    for run in runs:
        different.setdefault(identify(run.config), run)
    return sorted(different.values(), key=lambda run: sharing_order(run.config))


def run_sweep(runs: Sequence[Run], output_dir: Path) -> list[Run]:
    """Run whatever of ``runs``, in the order of :func:`order_runs`, has no complete record.

    Returns:
        The runs that failed; they are recorded, and the others went on.

    Raises:
        DataError: the messages cannot be had.
        RecordError: a record cannot be written.
    """
    failed, shared = [], None
    for number, run in enumerate(runs, start=1):
        place = f"Run {number} of {len(runs)}: {describe_run(run)}"
        # Looked up when it is due: another sweep may have done it meanwhile.
        if find_complete(output_dir, run):
            logger.info("%s is done already", place)
            continue
        logger.info("%s", place)
        report(f"{describe_run(run)}:")
        shared = shared or SharedWork([run.config for run in runs])
        try:
            run_and_record(run, output_dir, shared)
        except RUN_ERRORS as error:
            logger.error("Failed: %s", describe_error(error))
            failed.append(run)
        gc.collect()  # optimizers and the parameters that they hook refer to each other
    return failed


def describe_run(run: Run) -> str:
    """The run in words: its row or its command, and its seed."""
    row = find_row(run.config)
    return f"Row {row}, seed {run.config.seed}" if row else format_command(run.config)


def describe_plan(runs: Sequence[Run], output_dir: Path) -> str:
    """What :func:`run_sweep` would do: a line for each run, with what is done already."""
    lines = []
    for run in runs:
        state = "done" if find_complete(output_dir, run) else "to do"
        lines.append(f"{state:<5}  {format_command(run.config)}")
    n_done = sum(line.startswith("done") for line in lines)
    return "\n".join([*lines, f"{len(runs)} runs, {n_done} of them done, in {output_dir}"])
