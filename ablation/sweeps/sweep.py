"""Many runs in one process: what is done is left alone, and what is common is computed once."""

import gc
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation.classifier.export import require_export_folder
from ablation.classifier.weight_files import WEIGHTS_NAME
from ablation.config.commands import format_command
from ablation.config.identity import corpus_of, identify, identify_data, identify_tests
from ablation.config.runs import OutputOptions, Run
from ablation.data.corpora import load_corpus
from ablation.data.split_files import write_split
from ablation.finetuning.checkpoints import CHECKPOINT_NAME
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.forecast import describe_seconds
from ablation.finetuning.outcomes import Accuracy, ExperimentResult
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps import records
from ablation.sweeps.closing import closing_lines
from ablation.sweeps.time_left import Clock, estimate_time, order_by_cost
from ablation.sweeps.tracking import tracked
from ablation.sweeps.variants import compare_with_published, describe_run
from ablation.sweeps.watching import watched
from ablation.system import parallel
from ablation.system.errors import DataError, ExperimentError, RecordError, describe_error, logger
from ablation.system.files import checksum_file, clear_leftovers
from ablation.system.machine import choose_device, describe_machine
from ablation.system.output import count, print_lines, printable
from ablation.system.version import read_commit
from data_utils import Corpus


def run_and_record(
    run: Run,
    output_dir: Path,
    shared: SharedWork | None = None,
    output: OutputOptions | None = None,
    place: str = "",
) -> Path:
    """Run one experiment and write its record, however it ends. Returns its folder.

    What is kept goes to the record's folder, whatever ``output`` says. ``place`` is the run's in a
    sweep, in words; a run alone has none.

    Raises:
        ExperimentError: the record cannot be written, or the model cannot be kept.
        Exception, Interrupted: what made the run fail or stop, when that is recorded.
    """
    read_commit()  # before others change the files
    folder = run.folder(output_dir)
    if parallel.is_first():
        records.require_writable(folder)  # before the work, not after it
    output = replace(output or OutputOptions(), folder=folder)
    with (
        tracked(output.track, folder, run.config) as tracking,
        watched(run, place, output.watch) as watch,
    ):
        try:
            shared = shared or SharedWork([run.config])
            result = run_experiment(run.config, shared, output, tracking, watch)
        except (Exception, KeyboardInterrupt) as error:  # whatever it is, the record says so
            # If whoever reads the results has gone, the run is not at fault.
            if parallel.is_first() and not isinstance(error, BrokenPipeError):
                _record_end(output_dir, run, error)
            raise
        if parallel.is_first():
            record_complete(output_dir, run, result, shared.corpus)
            if place:  # a run alone says it at its end
                log_comparison(run, result.accuracy.test)
        tracking.note(result)
        watch.note(result)
    if result.not_kept:
        raise ExperimentError(describe_not_kept(result, folder))
    return folder


def _record_end(output_dir: Path, run: Run, error: Exception | KeyboardInterrupt) -> None:
    """Record how a run ended here, unless that fails: it must not hide why the run ended."""
    status, reason = "interrupted", str(error) or "interrupted"
    if isinstance(error, Exception):
        status, reason = "failed", describe_error(error)
    machine = describe_machine(choose_device(run.config.device))
    try:
        records.write_incomplete(output_dir, run, status, reason, machine)
    except (RecordError, DataError) as another:
        logger.error("The end of the run could not be recorded: %s", another)


def record_complete(output_dir: Path, run: Run, result: ExperimentResult, corpus: Corpus) -> Path:
    """Write the record of a run that came to its end, with the split it was made on, and delete
    its checkpoint, unless its model is still to be kept. Returns its folder."""
    data = identify_data(corpus)
    folder = records.write_complete(output_dir, run, result, data)
    write_split(output_dir, corpus, run.config, data["split_sha256"])
    if not result.not_kept:
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        clear_leftovers(folder / CHECKPOINT_NAME, seconds=0)
    return folder


def log_comparison(run: Run, test: Accuracy) -> None:
    """Say how the test accuracy of a run compares with what was published, if it does."""
    if sentence := compare_with_published(run, test.correct, test.total):
        logger.info("%s", sentence)


def describe_not_kept(result: ExperimentResult, folder: Path) -> str:
    """Why a model that was to be kept is not, and how to go on."""
    return (
        f"{' '.join(result.not_kept.values())} The run is complete, and its figures are in "
        f"{folder}; with --resume the same command keeps the model without training again."
    )


def find_done(run: Run, output_dir: Path, output: OutputOptions) -> records.Record | None:
    """The record of a run that came to its end, kept all that is to be kept, and was not begun
    again since. Raises ``DataError`` if its data cannot be read."""
    record = records.find_complete(output_dir, run)
    if not record or (record.folder / CHECKPOINT_NAME).exists():
        return None
    folders = {"model": output.save_model and record.folder, "export": output.export_dir}
    try:
        kept = {name: checksum_file(at / WEIGHTS_NAME) for name, at in folders.items() if at}
    except OSError:
        return None
    return record if kept.items() <= record.result.get("kept", {}).items() else None


def run_one(
    run: Run, output_dir: Path, output: OutputOptions, flags: Mapping[str, Any] | None = None
) -> None:
    """Run one experiment, or if it is to be resumed and is complete, say again what it printed; and
    then what came out, and what to try next.

    Args:
        flags: that it was asked for with.

    Raises:
        ExperimentError: it failed, or its record cannot be written.
    """
    with parallel.joined(choose_device(run.config.device)):
        done = find_done(run, output_dir, output) if output.resume and parallel.is_first() else None
        if output.export_dir and not done and parallel.is_first():
            require_export_folder(output.export_dir)
        if done:
            print_lines("\n".join(done.lines))
        folder = run.folder(output_dir)
        if not parallel.from_first(bool(done)):
            run_and_record(run, output_dir, output=output)
        logger.info("Record%s: %s", ", complete already" if done else "", folder)
        if parallel.is_first():
            try:
                lines = closing_lines(run, records.read_record(folder), output_dir, flags or {})
            except Exception as error:  # whatever it is: the run is complete
                logger.warning("What came out cannot be said here: %s", describe_error(error))
                return
            for line in lines:
                logger.info("%s", line)


def order_runs(runs: Sequence[Run]) -> list[Run]:
    """Each different run once, what shares work together, and what is cheap first."""
    different: dict[str, Run] = {}
    for run in runs:
        different.setdefault(identify(run.config), run)
    return order_by_cost(list(different.values()))


def by_texts(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs in their order, those on other texts apart: of another fold, or trained on others."""
    return [list(some) for _, some in itertools.groupby(runs, key=lambda r: corpus_of(r.config))]


def run_sweep(
    runs: Sequence[Run], output_dir: Path, output: OutputOptions | None = None
) -> list[Run]:
    """Run whatever of ``runs``, in the order of :func:`order_runs`, has no complete record. A run
    that was interrupted goes on from its checkpoint.

    Returns the runs that failed; they are recorded, and the others went on.

    Raises:
        DataError: the texts are missing or damaged.
        RecordError: a record cannot be written, or :func:`require_one_table` says why not.
        Interrupted: the process was asked to stop.
    """
    failed, shared, texts, clock = [], None, None, Clock({})
    output = replace(output or OutputOptions(), resume=True)
    for number, run in enumerate(runs, start=1):
        place = f"Run {number} of {len(runs)}: {describe_run(run)}"
        # Looked up when it is due: another sweep may have done it meanwhile.
        if find_done(run, output_dir, output):
            logger.info("%s is done already", place)
            clock.skip(run.name)
            continue
        if not shared or texts != corpus_of(run.config):
            texts, shared = corpus_of(run.config), None  # before there is another
            configs = [other.config for other in runs]
            shared = SharedWork([config for config in configs if corpus_of(config) == texts])
            known = require_one_table(output_dir, shared.corpus, runs)
            left = [
                other for other in runs[number - 1 :] if not find_done(other, output_dir, output)
            ]
            seconds = estimate_time(left, known, shared.corpus).seconds
            clock = Clock({other.name: s for other, s in zip(left, seconds, strict=True)})
        logger.info("%s (about %s left)", place, clock.left)
        started = time.perf_counter()
        print_lines(f"{describe_run(run)}:")
        try:
            run_and_record(run, output_dir, shared, output, f"run {number} of {len(runs)}")
        except (RecordError, BrokenPipeError):
            raise
        except Exception as error:  # whatever it is, the other runs go on
            logger.error("Failed: %s", describe_error(error))
            failed.append(run)
        clock.end_run(run.name, time.perf_counter() - started)
        gc.collect()  # nothing of one run may take memory from the next
    return failed


def require_one_table(
    output_dir: Path, corpus: Corpus, runs: Sequence[Run]
) -> list[records.Record]:
    """The complete records of a folder. Raises :class:`RecordError` if they do not belong in one
    table with these runs: on other data, or from what ``--weights PATH`` was before."""
    data = identify_tests(runs[0].config, identify_data(corpus))
    ours = {identify(run.config) for run in runs}
    names = {run.config.weights for run in runs}
    complete = [record for record in records.read_records(output_dir) if record.is_complete]
    for record in complete:
        if identify_tests(record.config, record.result["data"]) != data:
            raise RecordError(
                f"{record.folder} was made on other data or another split "
                f"({record.result['data']['name']}), so it does not belong in one table "
                "with these runs. Name another folder with --output_dir."
            )
        weights = record.config.weights
        is_repeated = identify(record.config) in ours
        if weights in names and not is_repeated and records.weights_have_changed(record):
            raise RecordError(
                f"{record.folder} started from another file than --weights {weights} is now, so "
                "it does not belong in one table with these runs. Ask for that run as well, and it "
                "is run again; or give the new file a name of its own; or name another folder with "
                "--output_dir."
            )
    return complete


def describe_plan(runs: Sequence[Run], output_dir: Path, output: OutputOptions) -> str:
    """What :func:`run_sweep` would do: a line for each run, with what is done already, and about
    how long the others take."""
    is_done = [bool(find_done(run, output_dir, output)) for run in runs]
    lines = []
    for run, done in zip(runs, is_done, strict=True):
        row = run.table.row_of(run.config)
        asks = f"  # row {row.name}: {row.question}".rstrip(": ") if row else ""
        state = "done" if done else "to do"
        lines.append(printable(f"{state:<5}  {format_command(run.config)}{asks}"))
    summary = (
        f"{count(len(runs), 'run')}, {sum(is_done)} of them done, in {printable(str(output_dir))}"
    )
    to_do = [run for run, done in zip(runs, is_done, strict=True) if not done]
    config = runs[0].config
    try:
        corpus = load_corpus(config) if config.dataset or config.demo else None
        known = [record for record in records.read_records(output_dir) if record.is_complete]
        left = estimate_time(to_do, known, corpus)
        summary += f"; about {describe_seconds(left.total)} left, {left.source}" * bool(to_do)
    except DataError as error:
        summary += f". How long it takes is not known: {printable(str(error))}"
    return "\n".join([*lines, summary])
