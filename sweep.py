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
from machine import find_commit
from run_records import (
    RecordError,
    Run,
    find_complete,
    identify,
    read_records,
    write_complete,
    write_failed,
)
from training import TrainingError, report

logger = logging.getLogger("experiments")

# What can go wrong in a run without being wrong in the program, and says so for people.
RUN_ERRORS = (ConfigError, DataError, CheckpointError, HiddenStateError, TrainingError)


def run_and_record(run: Run, output_dir: Path, shared: SharedWork | None = None) -> Path:
    """Run one experiment and write its record, complete or failed. Returns its folder.

    Raises:
        RecordError: the record cannot be written.
        Exception: what made the run fail, when it was recorded.
    """
    find_commit()  # before others change the files
    try:
        shared = shared or SharedWork([run.config])
        result = run_experiment(run.config, shared)
    except BrokenPipeError:  # whoever reads the results has gone, which is no fault of the run
        raise
    except Exception as error:
        write_failed(output_dir, run, describe_error(error))
        raise
    return write_complete(output_dir, run, result, describe_data(shared.messages, run.config))


def describe_error(error: Exception) -> str:
    """What went wrong, and the way out, for people."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return (
            f"out of memory: {reason}. A smaller --batch_size, --context_length or --model_size "
            "needs less, and so does LoRA."
        )
    return str(error) if isinstance(error, RUN_ERRORS) else f"{type(error).__name__}: {reason}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, which on a CPU PyTorch only says in words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


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
        RecordError: a record cannot be written, or the folder holds runs on other data, which
            could not stand in one table with these.
    """
    failed, shared = [], None
    for number, run in enumerate(runs, start=1):
        place = f"Run {number} of {len(runs)}: {describe_run(run)}"
        # Looked up when it is due: another sweep may have done it meanwhile.
        if find_complete(output_dir, run):
            logger.info("%s is done already", place)
            continue
        if not shared:
            shared = SharedWork([run.config for run in runs])
            _require_same_data(output_dir, shared, run)
        logger.info("%s", place)
        report(f"{describe_run(run)}:")
        try:
            run_and_record(run, output_dir, shared)
        except (RecordError, BrokenPipeError):
            raise
        except Exception as error:
            logger.error("Failed: %s", describe_error(error))
            failed.append(run)
        gc.collect()  # nothing of one run may take memory from the next
    return failed


def _require_same_data(output_dir: Path, shared: SharedWork, run: Run) -> None:
    data = describe_data(shared.messages, run.config)
    for record in read_records(output_dir):
        if record.is_complete and record.result["data"] != data:
            raise RecordError(
                f"{record.folder} was made on other data or another split "
                f"({record.result['data']['name']}), and the two could not stand in one table. "
                "Name another folder with --output_dir."
            )


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
