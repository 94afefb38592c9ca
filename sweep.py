"""Many runs in one process: what is done is left alone, and what is common is computed once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from checkpoints import CHECKPOINT_NAME
from data_utils import WEIGHTS_NAME, Corpus
from errors import (
    DataError,
    ExperimentError,
    RecordError,
)
from experiment import ExperimentResult, SharedWork, describe_data, run_experiment, sharing_order
from experiment_rows import find_row, format_command
from files import checksum_file
from machine import choose_device, describe_machine, find_commit
from output import printable, report
from parallel import is_first
from run_records import (
    Record,
    find_complete,
    read_records,
    require_writable,
    write_complete,
    write_incomplete,
)
from runs import Keep, Run, identify
from training import Accuracy
from variants import compare_with_published

logger = logging.getLogger("experiments")


def run_and_record(
    run: Run, output_dir: Path, shared: SharedWork | None = None, keep: Keep | None = None
) -> Path:
    """Run one experiment and write its record, however it ends. Returns its folder.

    Args:
        keep: its folder is the record's, whatever it says.

    Raises:
        RecordError: the record cannot be written.
        Exception, Interrupted: what made the run fail or stop, when it was recorded.
    """
    find_commit()  # before others change the files
    folder = output_dir / run.name
    if is_first():
        require_writable(folder)  # before the work, not after it
    try:
        shared = shared or SharedWork([run.config])
        result = run_experiment(run.config, shared, replace(keep or Keep(), folder=folder))
    except BrokenPipeError:  # whoever reads the results has gone, which is no fault of the run
        raise
    except KeyboardInterrupt as error:
        _record_end(output_dir, run, "interrupted", str(error) or "interrupted")
        raise
    except Exception as error:
        _record_end(output_dir, run, "failed", describe_error(error))
        raise
    if is_first():
        record_complete(output_dir, run, result, shared.corpus)
    return folder


def record_complete(output_dir: Path, run: Run, result: ExperimentResult, corpus: Corpus) -> Path:
    """Write the record of a run that came to its end, and let go of what it was to go on from.

    Returns its folder.

    Raises:
        RecordError: it cannot be written.
    """
    folder = write_complete(output_dir, run, result, describe_data(corpus))
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    log_comparison(run, result.accuracy.test)
    return folder


def log_comparison(run: Run, test: Accuracy) -> None:
    """Say how the test accuracy of a run compares with what was published, if it does."""
    if sentence := compare_with_published(run, test.correct, test.total):
        logger.info("%s", sentence)


def _record_end(output_dir: Path, run: Run, status: str, error: str) -> None:
    """Record how a run ended here, unless that fails: it must not hide why the run ended."""
    if not is_first():
        return
    machine = describe_machine(choose_device(run.config.device))
    try:
        write_incomplete(output_dir, run, status, error, machine)
    except (RecordError, DataError) as another:
        logger.error("The end of the run could not be recorded: %s", another)


def find_done(run: Run, output_dir: Path, keep: Keep) -> Record | None:
    """The record of a run that came to its end, kept all that is to be kept, and was not begun
    again since.

    Raises:
        DataError: its data cannot be read.
    """
    record = find_complete(output_dir, run)
    if not record or (record.folder / CHECKPOINT_NAME).exists():
        return None
    folders = {"model": keep.save_model and record.folder, "export": keep.export_dir}
    for name, folder in folders.items():
        if folder and not _is_file(folder / WEIGHTS_NAME, record.kept.get(name)):
            return None
    return record


def _is_file(path: Path, sha256: str | None) -> bool:
    try:
        return checksum_file(path) == sha256
    except OSError:
        return False


def describe_error(error: Exception) -> str:
    """What went wrong, and the way out, for people."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return (
            f"out of memory: {reason}. A smaller --batch_size, --context_length or --model_size "
            "needs less, and so does LoRA."
        )
    return str(error) if isinstance(error, ExperimentError) else f"{type(error).__name__}: {reason}"


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


def run_sweep(runs: Sequence[Run], output_dir: Path, keep: Keep | None = None) -> list[Run]:
    """Run whatever of ``runs``, in the order of :func:`order_runs`, has no complete record.

    A run that was interrupted goes on from its checkpoint.

    Returns:
        The runs that failed; they are recorded, and the others went on.

    Raises:
        DataError: the messages cannot be had.
        RecordError: a record cannot be written, or the folder holds runs on other data, which
            could not stand in one table with these.
    """
    failed, shared = [], None
    keep = replace(keep or Keep(), resume=True)
    for number, run in enumerate(runs, start=1):
        place = f"Run {number} of {len(runs)}: {describe_run(run)}"
        # Looked up when it is due: another sweep may have done it meanwhile.
        if find_done(run, output_dir, keep):
            logger.info("%s is done already", place)
            continue
        if not shared:
            shared = SharedWork([run.config for run in runs])
            require_same_data(output_dir, shared.corpus)
        logger.info("%s", place)
        report(f"{describe_run(run)}:")
        try:
            run_and_record(run, output_dir, shared, keep)
        except (RecordError, BrokenPipeError):
            raise
        except Exception as error:
            logger.error("Failed: %s", describe_error(error))
            failed.append(run)
        gc.collect()  # nothing of one run may take memory from the next
    return failed


def require_same_data(output_dir: Path, corpus: Corpus) -> None:
    """Raise :class:`RecordError` if a folder holds runs on other data than these."""
    data = describe_data(corpus)
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


def describe_plan(runs: Sequence[Run], output_dir: Path, keep: Keep) -> str:
    """What :func:`run_sweep` would do: a line for each run, with what is done already."""
    lines = []
    for run in runs:
        state = "done" if find_done(run, output_dir, keep) else "to do"
        lines.append(f"{state:<5}  {format_command(run.config)}")
    n_done = sum(line.startswith("done") for line in lines)
    return "\n".join(
        [*lines, f"{len(runs)} runs, {n_done} of them done, in {printable(str(output_dir))}"]
    )
