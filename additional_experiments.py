"""Finetune a GPT-2 as a classifier, to find out which choices matter: the script.

``ablation/config/flags.py`` has what can be asked for. Packages that take seconds to import are
imported where something is to be done: help and mistakes need none of them.
"""

import sys
from collections.abc import Sequence

from ablation.system.errors import logger
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
    """Do what a command line asks for. Returns the exit status: 1 if a run of a sweep failed, and
    as --fail_unless says.

    Raises:
        ExperimentError: the command line is wrong, data or records are, or the only run failed.
        ImportError: a package is missing.
    """
    with ending_at_once():
        from ablation.config.command_line import parse_command_line

        request = parse_command_line(arguments)
        if request.text is not None:
            print(request.text, flush=True)
            return 0
        from ablation.config.kept_tables import format_table, keep_table, known_tables
        from ablation.config.rows import SOURCE
        from ablation.sweeps import records, sweep
        from ablation.system import output, parallel

    output_dir, runs = request.output_dir, sweep.order_runs(request.runs)
    if request.compare:
        with ending_at_once():
            from ablation.reports.compare_runs import compare_runs

        tables = known_tables(output_dir, request.table)
        output.print_lines(compare_runs(*request.compare, output_dir, tables))
        return 0
    if request.plan:
        with ending_at_once():
            from ablation.reports.answers import describe_plan

        tables = known_tables(output_dir, request.table)
        plan = describe_plan(request.plan, output_dir, tables, request.table, request.rows)
        output.print_lines(plan)
        return 0
    if request.dry_run:
        plan = sweep.describe_plan(runs, output_dir, request.output)
        if request.writes_table:  # with the plan as comments, for --table
            plan = "\n".join([format_table(request.table), *(f"# {x}" for x in plan.splitlines())])
        output.print_lines(plan)
        return 0
    if not request.writes_report and parallel.is_first():
        records.require_writable(output_dir)
    if runs and request.table is not SOURCE and parallel.is_first():
        keep_table(request.table, output_dir)
    if runs and not request.is_sweep:
        sweep.run_one(runs[0], output_dir, request.output, request.flags)
        return 0
    if request.cluster:
        from ablation.sweeps.ray_sweep import run_ray_sweep  # Ray is not always there

        failed = []
        for some in sweep.by_texts(runs):
            failed += run_ray_sweep(some, output_dir, request.output, request.cluster)
    else:
        failed = sweep.run_sweep(runs, output_dir, request.output)
    with ending_at_once():
        from ablation.reports.folder_report import write_report
        from ablation.reports.verdicts import exit_status, judge_sections

    tables = known_tables(output_dir, request.table)
    asked = (request.table, runs[0].overrides or {}) if runs else None
    summary = write_report(output_dir, request.data_dir, request.offline, tables, asked)
    sections = summary.sections
    if runs or request.table is not SOURCE:  # else those of every table
        sections = [section for section in sections if section.table == request.table]
    verdicts = judge_sections(request.expectations, sections, runs)
    output.print_lines("\n".join([summary.text, *(verdict.line for verdict in verdicts)]))
    if request.opens:
        output.open_page(output_dir / "report.html")
    for run in failed:
        logger.error("Failed: %s", run.name)
    return 1 if failed else exit_status(verdicts)


if __name__ == "__main__":
    sys.exit(main())
