"""Do what a command line asks for."""

from __future__ import annotations

import logging
from pathlib import Path

from ablation.classifier.export import require_export_folder
from ablation.config.command_line import Request
from ablation.config.runs import Keep, Run
from ablation.sweeps.records import require_writable
from ablation.sweeps.sweep import (
    describe_plan,
    find_done,
    log_comparison,
    order_runs,
    run_and_record,
    run_sweep,
)
from ablation.system import parallel
from ablation.system.machine import choose_device
from ablation.system.output import print_lines
from ablation.system.signals import ending_at_once

logger = logging.getLogger("experiments")


def perform(request: Request) -> int:
    """Do what is asked for. Returns the exit status: 1 if a run of a sweep failed, else 0.

    Raises:
        DataError, RecordError: data or records are missing, are damaged, or do not fit.
        ExperimentError: the only run failed.
    """
    output_dir, runs = request.output_dir, order_runs(request.runs)
    if request.compare:
        with ending_at_once():
            from ablation.reports.compare_runs import compare_runs

        print_lines(compare_runs(*request.compare, output_dir))
        return 0
    if request.dry_run:
        print_lines(describe_plan(runs, output_dir, request.keep))
        return 0
    if not request.report and parallel.is_first():
        require_writable(output_dir)
    if runs and not request.is_sweep:
        perform_one(runs[0], output_dir, request.keep)
        return 0
    if request.cluster:
        from ablation.sweeps.ray_sweep import run_ray_sweep  # Ray is not always there

        failed = run_ray_sweep(runs, output_dir, request.keep, request.cluster)
    else:
        failed = run_sweep(runs, output_dir, request.keep)
    # Pictures and statistics take a while to import, and a single run needs none.
    with ending_at_once():
        from ablation.reports.report import write_report

    print_lines(write_report(output_dir, request.data_dir, request.offline))
    for run in failed:
        logger.error("Failed: %s", run.name)
    return 1 if failed else 0


def perform_one(run: Run, output_dir: Path, keep: Keep) -> None:
    """Run one experiment; if it is to be resumed and is complete, say again what it printed."""
    with parallel.joined(choose_device(run.config.device)):
        done = find_done(run, output_dir, keep) if keep.resume and parallel.is_first() else None
        if keep.export_dir and not done and parallel.is_first():
            require_export_folder(keep.export_dir)
        if done:
            print_lines("\n".join(done.lines))
            log_comparison(run, done.accuracy("test"))
        folder = run.folder(output_dir)
        if not parallel.from_first(bool(done)):
            run_and_record(run, output_dir, keep=keep)
        logger.info("Record%s: %s", ", complete already" if done else "", folder)
