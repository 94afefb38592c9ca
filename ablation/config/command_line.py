"""The command line of additional_experiments.py, and what it asks for.

Nothing here needs PyTorch or another package, so that --help and mistakes are answered at once.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablation.config import rules
from ablation.config.choices import Choice, choose_rows, make_runs
from ablation.config.cluster_request import ClusterRequest, cluster_problems
from ablation.config.commands import format_command, format_flags
from ablation.config.expectations import Expectation, read_expectations
from ablation.config.flag_types import read_flags
from ablation.config.flags import ACTIONS, build_parser, unknown_problems
from ablation.config.kept_tables import known_tables
from ablation.config.options import OPTIONS
from ablation.config.row_list import list_rows
from ablation.config.runs import EPOCH, RESULT_NAME, OutputOptions, Run
from ablation.config.tables import Name, Table, differing, parse_rows
from ablation.system.errors import ConfigError, Problem, logger
from ablation.system.files import ROOM, path_problem
from ablation.system.processes import is_launched
from ablation.system.version import describe_version

# Flags that make a sweep also of one row.
SWEEPING = ("seeds", "num_seeds", "folds", "ray", "vary")
# Flags with which nothing is run, and what means something beside them.
PLACES = {"output_dir", "data_dir", "offline", "table"}
READING = {
    "version": set(),
    "list": {"output_dir", "table"},
    "report": PLACES | {"fail_unless", "open"},
    "compare": PLACES,
    "plan": {"output_dir", "table", "rows"},
}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    runs: list[Run]
    table: Table
    output_dir: Path
    text: str | None = None  # to be printed instead, as the list of rows
    is_sweep: bool = False
    dry_run: bool = False
    writes_table: bool = False  # --vary does, for --dry_run to print
    writes_report: bool = False
    opens: bool = False  # the report, in a browser
    compare: tuple[str, str] | None = None
    plan: float | None = None  # points
    rows: tuple[Name, ...] = ()  # that it rests on; by default all
    expectations: tuple[Expectation, ...] = ()
    output: OutputOptions = field(default_factory=OutputOptions)
    flags: dict[str, Any] = field(default_factory=dict)  # that were given, with their values
    cluster: ClusterRequest | None = None  # by default, this process computes
    data_dir: Path = Path(OPTIONS["data_dir"].default)  # where a report finds the messages
    offline: bool = False  # whether it must find them there


def parse_command_line(argv: Sequence[str]) -> Request:
    """Turn the command line into a request, and say on standard error which row a run is. Raises
    ``ConfigError`` with every problem of the command line."""
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(argv)
    joined = _missing_spaces(vars(namespace))
    texts = {name: text for name, text in vars(namespace).items() if name not in joined}
    values, problems = read_flags({**ACTIONS, **OPTIONS}, texts)
    asked = {name: values[name] for name in ACTIONS if name in values}
    given = {name: values[name] for name in OPTIONS if name in values}
    problems = [*parser.problems, *joined.values(), *problems]
    if asked.get("rows") == ("list",):
        asked["list"] = asked.pop("rows")
    seeds, seed_problems = _choose_seeds(asked, given)
    output_dir = Path(asked.get("output_dir", "runs/demo" if "demo" in given else "runs"))
    planned = asked.pop("rows", ()) if "plan" in asked else ()  # of any table that is known there
    choice, row_problems = choose_rows(asked, given, len(seeds))
    planned_rows, planned_problems = _find_rows(planned, output_dir, choice.table)
    row_problems += planned_problems
    is_sweep = len(choice.names) > 1 or not asked.keys().isdisjoint(SWEEPING)
    runs, run_problems = make_runs(choice, seeds, asked)
    problems += row_problems + seed_problems + run_problems
    if ACTIONS["track"].values.allows(asked.get("track")):
        problems += rules.tracker_problems(asked["track"])
    problems += [
        *cluster_problems(asked, given),
        *_conflicts(asked, given),
        *_export_problems(asked, output_dir, runs, is_sweep),
    ]
    expectations: list[Expectation] = []
    if "fail_unless" in asked and not row_problems:
        tables = known_tables(output_dir, choice.table) if "report" in asked else [choice.table]
        expectations, found = read_expectations(asked["fail_unless"], tables)
        problems += found
    problems += _reporting_problems(asked, is_sweep)
    if is_launched() and not problems:
        problems += _launch_problems(asked, runs, is_sweep)
    problems += unknown_problems(unknown, explained=bool(joined))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if "version" in asked or "list" in asked:
        text = list_rows(choice.table, output_dir) if "list" in asked else describe_version()
        return Request([], choice.table, output_dir, text)
    reads_only = not READING.keys().isdisjoint(asked)
    if not is_sweep and not reads_only:
        _announce_row(runs[0], choice)
    cluster = {name: asked.get(name) for name in ("gpus_per_run", "cpus_per_run")}
    return Request(
        runs=[] if reads_only else runs,
        table=choice.table,
        output_dir=output_dir,
        is_sweep=is_sweep,
        dry_run="dry_run" in asked,
        writes_table="vary" in asked,
        writes_report="report" in asked,
        opens="open" in asked,
        compare=asked.get("compare"),
        plan=asked.get("plan"),
        rows=tuple(planned_rows),
        expectations=tuple(expectations),
        output=_choose_output(asked),
        flags={**asked, **given},
        cluster=ClusterRequest(asked["ray"], **cluster) if "ray" in asked else None,
        data_dir=Path(runs[0].config.data_dir),
        offline=runs[0].config.offline,
    )


def _find_rows(
    texts: Sequence[str], output_dir: Path, asked: Table
) -> tuple[list[Name], list[Problem]]:
    """Rows of any table that is known in a folder, and a problem for each that is in none."""
    if not texts:
        return [], []
    rows = {n: row for table in known_tables(output_dir, asked) for n, row in table.rows.items()}
    return parse_rows(" ".join(texts), Table("", rows, ()))


def _choose_seeds(
    asked: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[list[int], list[Problem]]:
    """The seeds of --seeds, or of --num_seeds and --seed, and their problems."""
    first, number = given.get("seed", OPTIONS["seed"].default), asked.get("num_seeds", 1)
    last = OPTIONS["seed"].values.high
    if not ACTIONS["num_seeds"].values.allows(number):
        number = 1  # a list of a billion seeds would take all memory before it is refused
    if "seeds" in asked:
        both = "num_seeds" in asked or "seed" in given
        twice = Problem("--seeds with --num_seeds or --seed", "give one of them")
        return list(dict.fromkeys(asked["seeds"])), [twice] if both else []
    if first <= last < first + number - 1:
        sentence = f"seeds go up to {last}; take a smaller --seed"
        return [first], [Problem(f"--num_seeds {number} with --seed {first}", sentence)]
    return list(range(first, first + number)), []


def _choose_output(asked: Mapping[str, Any]) -> OutputOptions:
    """What is kept of runs."""
    keeps = not asked.keys().isdisjoint(("resume", "save_model", "export_hf"))
    return OutputOptions(
        resume="resume" in asked,
        checkpoint_every=asked.get("checkpoint_every", EPOCH if keeps else None),
        save_model="save_model" in asked,
        export_dir=Path(asked["export_hf"]) if "export_hf" in asked else None,
        track=asked.get("track"),
        watch="no_watch" not in asked,
    )


def _missing_spaces(texts: Mapping[str, Any]) -> dict[str, Problem]:
    """A problem for each option whose text ends in another flag, as ``all--weights`` does."""
    problems = {}
    for name, text in texts.items():
        joined = re.fullmatch(r"(.*?)\s*--(\w+)", text) if isinstance(text, str) else None
        if joined and {name, joined[2]} <= OPTIONS.keys():
            problems[name] = Problem(
                f'--{name} "{text}"',
                f"a space is missing before --{joined[2]}; write --{name} "
                f'"{joined[1]}" --{joined[2]} ...',
            )
    return problems


def _conflicts(asked: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems between flags that say what is to be done."""
    doing = _exclusive(asked)
    if len(doing) > 1:
        yield Problem(" with ".join(f"--{name}" for name in doing), "give one of them")
    if doing and doing[0] in READING:
        for name in sorted({*given, *asked} - READING[doing[0]] - {*doing}):
            yield Problem(
                f"--{name} with --{doing[0]}", "nothing is run, so it has no use; leave it out"
            )


def _reporting_problems(asked: Mapping[str, Any], is_sweep: bool) -> Iterator[Problem]:
    """Problems of --fail_unless and --open where no report is written."""
    uses = {
        "fail_unless": ("there is nothing to judge", "nothing is compared"),
        "open": ("there is no page to open", "no page is written"),
    }
    for name, (without_runs, of_one) in uses.items():
        if name in asked and "dry_run" in asked:
            yield Problem(f"--{name} with --dry_run", f"nothing is run, so {without_runs}")
        elif name in asked and not is_sweep and not _exclusive(asked):
            sentence = f"{of_one}; give --rows, or --report"
            yield Problem(f"--{name} with a single run", sentence)


def _exclusive(asked: Mapping[str, Any]) -> list[str]:
    """The flags of those asked for that are alone in what they do."""
    return [name for name in ("dry_run", *READING) if name in asked]


def _export_problems(
    asked: Mapping[str, Any], output_dir: Path, runs: Sequence[Run], is_sweep: bool
) -> Iterator[Problem]:
    """Problems of folders that are written to. Records are read and replaced, and an exported
    model is one's own: they stay apart."""
    folders = {"output_dir": output_dir, "export_hf": asked.get("export_hf")}
    found = {name: folder and path_problem(name, folder, ROOM) for name, folder in folders.items()}
    yield from filter(None, found.values())
    if not asked.get("export_hf"):
        return
    if is_sweep:
        yield Problem("--export_hf with many runs", "one folder holds one model; export one run")
        return
    yield from rules.export_problems(runs[0].config) if runs else ()
    if found["export_hf"]:
        return
    output, export = (Path(os.path.realpath(folder)) for folder in folders.values())
    if export == output or output in export.parents or export in output.parents:
        yield Problem(
            f"--export_hf {asked['export_hf']} with --output_dir {output_dir}",
            "one is inside the other; export to a folder apart from the records",
        )
    elif any((folder / RESULT_NAME).exists() for folder in (export, *export.parents)):
        yield Problem(
            f"--export_hf {asked['export_hf']}",
            "that is the folder of a run, or inside one; export to a folder apart from the records",
        )


def _launch_problems(
    asked: Mapping[str, Any], runs: Sequence[Run], is_sweep: bool
) -> Iterator[Problem]:
    """What torchrun's processes cannot do, or too many of them."""
    if doing := _exclusive(asked):
        sentence = "nothing is run; give the same command to python"
        yield Problem(f"--{doing[0]} with torchrun", sentence)
        return
    if is_sweep:
        yield Problem(
            "many runs with torchrun",
            "its processes share one; give the same command to python, or spread runs over "
            "machines with --ray",
        )
        return
    # With PyTorch, which torchrun has imported already.
    from ablation.system.machine import choose_device
    from ablation.system.parallel import launch_problems

    config = runs[0].config
    n_texts = config.batch_size * config.accumulation_steps
    yield from launch_problems(choose_device(config.device), n_texts)


def _announce_row(run: Run, choice: Choice) -> None:
    """Say which row a single run is, or varies."""
    asked = choice.table.rows.get(choice.names[0])
    row = choice.table.row_of(run.config)
    if asked and row is not asked:
        flags = format_flags(differing(run.config, asked))
        logger.info("A variant of row %s, not the row, because of %s", asked.name, flags)
    if row:
        logger.info("Row %s: %s", row.name, row.command)
    elif not asked and not run.config.demo:
        logger.info("Running: %s", format_command(run.config))
