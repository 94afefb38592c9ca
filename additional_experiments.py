"""Finetune a GPT-2 as a spam classifier, to find out which choices matter.

One run is one experiment: by default row 1 of the README's table. --rows and
--seeds make many runs, and a report on them.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import parallel
from cluster import LOCAL, ClusterRequest, parse_cluster
from config_rules import find_export_problems, find_option_problems, find_problems
from console import Parser, run_for_people
from errors import ConfigError
from experiment_config import GROUPS, OPTIONS, ExperimentConfig, parse_options, show_default
from experiment_rows import (
    CIRCUMSTANCES,
    LORA_FLAGS,
    ROWS,
    configure,
    differing_options,
    find_row,
    format_command,
    format_flag,
)
from hf_export import require_export_folder
from machine import choose_device
from output import report
from run_records import require_writable
from runs import EPOCH, Keep, Run
from sweep import (
    describe_plan,
    find_done,
    log_comparison,
    order_runs,
    run_and_record,
    run_sweep,
)

logger = logging.getLogger("experiments")

MAX_SEEDS = 1_000


@dataclass(frozen=True)
class Action:
    """A flag that says what is to be done, and not how a run is made."""

    help: str
    metavar: str | tuple[str, ...] | None = None  # none for a switch
    nargs: str | int | None = None
    const: str | None = None  # the value of a flag that is given without one
    default: str = "none"


ACTIONS = {
    "rows": Action(
        f"the flags of row N, 1 to {len(ROWS)}, or of many: 1-5,16, or all; other flags win over "
        "them, and then a run is a variant of its row",
        metavar="ROWS",
    ),
    "seeds": Action("run each of the rows with each of these seeds", metavar="N", nargs="+"),
    "num_seeds": Action(
        "the same with this many seeds, the first of them that of --seed", metavar="N"
    ),
    "output_dir": Action(
        "folder for the records of runs and the report on them; with --demo it is runs/demo",
        metavar="DIR",
        default="runs",
    ),
    "resume": Action(
        "go on from the last checkpoint of this run, if there is one; sweeps always do",
        default="off",
    ),
    "checkpoint_every": Action(
        "write a checkpoint of a run after so many batches, or after each epoch, which is the "
        "default with --resume, --save_model and --export_hf",
        metavar="N|epoch",
    ),
    "save_model": Action(
        "keep the trained classifier in the run's folder, for predict.py", default="off"
    ),
    "export_hf": Action(
        "write the trained classifier to a folder that Hugging Face transformers can load, "
        "and LoRA also as an adapter for PEFT",
        metavar="DIR",
    ),
    "ray": Action(
        "hand the runs to Ray: to one that is started on this machine, or to the cluster at "
        "ADDRESS, which is HOST:PORT, or auto for the one that this machine is in",
        metavar="ADDRESS",
        nargs="?",
        const=LOCAL,
    ),
    "gpus_per_run": Action(
        "with --ray, how much of a GPU each task takes, where there are GPUs: 1, or less for some "
        "at once on one GPU; none is 1",
        metavar="X",
    ),
    "cpus_per_run": Action(
        "with --ray, cores that each task takes, where no GPU is used; none is all of the smallest "
        "node",
        metavar="N",
    ),
    "dry_run": Action("print the runs and which of them are done, and run none", default="off"),
    "report": Action("report on the records in --output_dir, and run nothing", default="off"),
    "compare": Action(
        "compare two recorded runs, by their folders, on the same test messages, and run nothing",
        metavar=("RUN_A", "RUN_B"),
        nargs=2,
    ),
}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    runs: list[Run]
    output_dir: Path
    is_sweep: bool = False
    dry_run: bool = False
    report: bool = False
    compare: tuple[str, str] | None = None
    keep: Keep = field(default_factory=Keep)
    cluster: ClusterRequest | None = None  # that computes; none is this process
    data_dir: Path = Path(OPTIONS["data_dir"].default)  # where a report finds the messages
    offline: bool = False  # whether it must find them there


def perform(request: Request) -> int:
    """Do what is asked for. Returns the exit status: 1 if a run of a sweep failed, else 0.

    Raises:
        DataError, RecordError: data or records cannot be had, are damaged, or do not fit.
        ExperimentError: the only run failed.
    """
    output_dir = request.output_dir
    if request.compare:
        from report import compare_runs

        report(compare_runs(*request.compare, output_dir))
        return 0
    if request.dry_run:
        report(describe_plan(request.runs, output_dir, request.keep))
        return 0
    if not request.report and parallel.is_first():
        require_writable(output_dir)
    if request.runs and not request.is_sweep:
        perform_one(request.runs[0], output_dir, request.keep)
        return 0
    if request.cluster:
        from ray_sweep import run_ray_sweep  # Ray is not always there

        failed = run_ray_sweep(request.runs, output_dir, request.keep, request.cluster)
    else:
        failed = run_sweep(request.runs, output_dir, request.keep)
    # Pictures and statistics take a while to import, and a single run needs none.
    from report import write_report

    report(write_report(output_dir, request.data_dir, request.offline))
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
            report("\n".join(done.lines))
            log_comparison(run, done.accuracy("test"))
        folder = output_dir / run.name
        if not parallel.from_first(bool(done)):
            run_and_record(run, output_dir, keep=keep)
        logger.info("Record%s: %s", ", complete already" if done else "", folder)


# ---------------------------------------------------------------- the command line


def parse_command_line(argv: Sequence[str]) -> Request:
    """Turn the command line into a request, and say on standard error which row a run is.

    Raises:
        ConfigError: with every problem of the command line.
    """
    namespace, unknown = build_parser().parse_known_args(argv)
    texts = vars(namespace)
    asked = {name: texts.pop(name) for name in ACTIONS if name in texts}
    given, problems = parse_options(texts)
    rows, problems_of_rows = parse_rows(asked["rows"]) if "rows" in asked else ([None], [])
    seeds, problems_of_seeds = parse_seeds(asked, given)
    keep, problems_of_keep = parse_keep(asked)
    cluster, problems_of_cluster = parse_cluster(asked, given)
    problems += problems_of_rows + problems_of_seeds + problems_of_keep + problems_of_cluster
    problems += _find_conflicts(asked, given)
    is_sweep = len(rows) > 1 or not {"seeds", "num_seeds", "ray"}.isdisjoint(asked)
    overrides = None
    if "rows" in asked:
        overrides = {name: given[name] for name in given if name not in CIRCUMSTANCES}
    # What is computed elsewhere need not be possible here.
    find = find_problems if asked.get("ray", LOCAL) == LOCAL else find_option_problems
    runs = []
    configs = {number: configure(ROWS.get(number), given) for number in rows}
    uses_lora = any(config.uses_lora for config in configs.values())
    for number, config in configs.items():
        place = f"row {number}: " if len(rows) > 1 else ""
        # Beside rows that use LoRA, its flags are for them, and no mistake for the others.
        ignored = LORA_FLAGS if uses_lora and not config.uses_lora else ()
        useful = {name: given[name] for name in given if name not in ignored}
        problems += [place + problem for problem in find(config, useful)]
        runs += [Run(replace(config, seed=seed), overrides) for seed in seeds]
    if keep.export_dir and is_sweep:
        problems.append("--export_hf with many runs: one folder holds one model; export one run")
    elif keep.export_dir and runs:
        problems += find_export_problems(runs[0].config)
    if parallel.is_launched() and not problems:
        problems += _find_launch_problems(asked, runs, is_sweep)
    if len(rows) > 1:  # what is wrong in every row is not a row's fault
        problems = _name_once(problems, len(rows))
    problems += _name_unknown(unknown, problems)
    if problems:
        raise ConfigError(problems)
    reads_only = "report" in asked or "compare" in asked
    if not is_sweep and not reads_only:
        _announce_row(runs[0].config, rows[0])
    return Request(
        runs=[] if reads_only else order_runs(runs),
        output_dir=Path(asked.get("output_dir", "runs/demo" if "demo" in given else "runs")),
        is_sweep=is_sweep,
        dry_run="dry_run" in asked,
        report="report" in asked,
        compare=tuple(asked["compare"]) if "compare" in asked else None,
        keep=keep,
        cluster=cluster,
        data_dir=Path(runs[0].config.data_dir),
        offline=runs[0].config.offline,
    )


def parse_rows(text: str) -> tuple[list[int], list[str]]:
    """The rows that a text like 1-5,16 or all selects, and a problem for each part that is none."""
    if text == "all":
        return list(ROWS), []
    numbers, problems = [], []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        selected = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else range(0)
        # No list of a billion rows for a slip of the finger.
        if not selected or selected[0] not in ROWS or selected[-1] not in ROWS:
            problems.append(
                f"--rows {text}: no such row{f': {part}' if part != text else ''}; give numbers "
                f"from 1 to {len(ROWS)}, as in 1-5,16, or all"
            )
        else:
            numbers += selected
    return list(dict.fromkeys(numbers)), problems


def parse_seeds(asked: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """The seeds of --seeds, --num_seeds and --seed, and a problem for each that is none."""
    first = given.get("seed", OPTIONS["seed"].default)
    if "seeds" in asked:
        values = [parse_options({"seed": text}) for text in asked["seeds"]]
        problems = [problem for _, found in values for problem in found]
        seeds = [value["seed"] for value, _ in values if value]
        for seed in seeds:
            problems += find_problems(ExperimentConfig(seed=seed))
        if "num_seeds" in asked or "seed" in given:
            problems.append("--seeds with --num_seeds or --seed: give one of them")
        return list(dict.fromkeys(seeds)), [p.replace("--seed ", "--seeds ") for p in problems]
    text = asked.get("num_seeds", "1")
    if not re.fullmatch(r"\d{1,6}", text) or not 1 <= int(text) <= MAX_SEEDS:
        return [first], [f"--num_seeds {text}: not a whole number from 1 to {MAX_SEEDS}"]
    return list(range(first, first + int(text))), []


def parse_keep(asked: Mapping[str, Any]) -> tuple[Keep, list[str]]:
    """What is kept of runs, and a problem for each flag of it that has no sense."""
    export_dir = asked.get("export_hf")
    keeps = "resume" in asked or "save_model" in asked or export_dir is not None
    every = asked.get("checkpoint_every", EPOCH if keeps else None)
    problems = []
    if every not in (None, EPOCH):
        if re.fullmatch(r"\d{1,9}", every) and int(every):
            every = int(every)
        else:
            problems.append(
                f"--checkpoint_every {every}: not epoch, and not a whole number of at least 1"
            )
    if export_dir == "":
        problems.append('--export_hf "": empty; give a folder, or leave --export_hf out')
    keep = Keep(
        resume="resume" in asked,
        checkpoint_every=every,
        save_model="save_model" in asked,
        export_dir=Path(export_dir) if export_dir else None,
    )
    return keep, problems


def _find_conflicts(asked: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Problems between flags that say what is to be done."""
    doing = [f"--{name}" for name in ("dry_run", "report", "compare") if name in asked]
    problems = []
    if len(doing) > 1:
        problems.append(f"{' with '.join(doing)}: give one of them")
    if doing and doing[0] != "--dry_run":
        useful = {"dry_run", "report", "compare", "output_dir", "data_dir", "offline"}
        others = {*given, *asked} - useful
        problems += [
            f"--{name} with {doing[0]}: nothing is run, so it has no use; leave it out"
            for name in sorted(others)
        ]
    if asked.get("output_dir") == "":
        problems.append('--output_dir "": empty; give a folder, or leave --output_dir out')
    return problems


def _find_launch_problems(
    asked: Mapping[str, Any], runs: Sequence[Run], is_sweep: bool
) -> list[str]:
    """What torchrun's processes cannot do, or too many of them."""
    doing = [f"--{name}" for name in ("dry_run", "report", "compare") if name in asked]
    if doing:
        return [f"{doing[0]} with torchrun: nothing is run; give the same command to python"]
    if is_sweep:
        return [
            "many runs with torchrun: its processes share one; give the same command to python, "
            "or spread runs over machines with --ray"
        ]
    config = runs[0].config
    n_texts = config.batch_size * config.accumulation_steps
    return parallel.find_launch_problems(choose_device(config.device), n_texts)


def _name_once(problems: Sequence[str], n_rows: int) -> list[str]:
    """The problems, those that all rows have in common without their rows."""
    bare = [re.sub(r"^row \d+: ", "", problem) for problem in problems]
    return list(
        dict.fromkeys(
            text if bare.count(text) == n_rows else problem
            for text, problem in zip(bare, problems, strict=True)
        )
    )


def build_parser() -> argparse.ArgumentParser:
    """A flag for each option, by group. Texts are not converted, and no default is set, so
    that what was given can be told from what was not and all problems be named together."""
    parser = Parser(
        usage="python additional_experiments.py [--flag value ...]",
        description=__doc__,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, action in ACTIONS.items():
        kind = {"metavar": action.metavar, "nargs": action.nargs, "const": action.const}
        parser.add_argument(
            f"--{name}",
            help=f"{action.help} (default: {action.default})",
            **(kind if action.metavar else {"action": "store_true"}),
        )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, option in OPTIONS.items():
        rules = option.metadata
        kind = {"action": "store_true"}
        if not isinstance(option.default, bool):
            choices = f"{{{','.join(rules['choices'])}}}"
            kind = {"metavar": rules["metavar"] or choices}
        groups[rules["group"]].add_argument(
            f"--{name}", help=f"{rules['help']} (default: {show_default(option)})", **kind
        )
    return parser


def _name_unknown(unknown: Sequence[str], problems: Sequence[str]) -> list[str]:
    """A problem for each argument that belongs to no flag."""
    known = ["--help", *(f"--{name}" for name in (*ACTIONS, *OPTIONS))]
    flags = [argument.split("=")[0] for argument in unknown if argument.startswith("-")]
    named = []
    for flag in flags:
        nearest = difflib.get_close_matches(flag, known, n=1, cutoff=0.5)
        named.append(f"{flag}: no such flag" + (f"; did you mean {nearest[0]}?" if nearest else ""))
    # Words after a flag that is unknown or lacks its space are its values, not another problem.
    explained = flags or any("a space is missing" in problem for problem in problems)
    words = [argument for argument in unknown if not argument.startswith("-")]
    if words and not explained:
        named.append(
            f"{' '.join(words)}: belongs to no flag; switches take no value, and a value with "
            "spaces needs quotes"
        )
    return named


def _announce_row(config: ExperimentConfig, asked: int | None) -> None:
    for number, row in ROWS.items():
        differing = differing_options(config, row)
        if not differing:
            logger.info("Row %d: %s", number, row.command)
        elif number == asked:
            flags = " ".join(format_flag(name, getattr(config, name)) for name in differing)
            logger.info("A variant of row %d, not the row, because of %s", number, flags)
    if asked is None and not find_row(config) and not config.demo:
        logger.info("Running: %s", format_command(config))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script. Returns the exit status: 0, 2 for wrong usage, 1 for other faults."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_for_people(
        lambda: perform(parse_command_line(arguments)),
        way_on="With --resume a run goes on from here, and a sweep with the same command.",
    )


if __name__ == "__main__":
    sys.exit(main())
