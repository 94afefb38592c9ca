"""The command line of additional_experiments.py, and what it asks for.

Nothing here needs PyTorch or another package, so that --help and mistakes are answered at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablation.config.cluster_request import LOCAL, ClusterRequest, parse_cluster
from ablation.config.flags import ACTIONS, build_parser, name_unknown
from ablation.config.options import OPTIONS, ExperimentConfig, parse_options, parse_value
from ablation.config.rows import (
    CIRCUMSTANCES,
    LORA_FLAGS,
    ROWS,
    configure,
    differing_options,
    format_command,
    format_flags,
    list_rows,
    parse_rows,
    row_number,
)
from ablation.config.rules import (
    check_value,
    config_problems,
    export_problems,
    find_joined,
    option_problems,
)
from ablation.config.runs import EPOCH, RESULT_NAME, Keep, Run
from ablation.system.errors import ConfigError, shorten
from ablation.system.files import ROOM, path_problem
from ablation.system.processes import is_launched
from ablation.system.version import describe_version

logger = logging.getLogger("experiments")

MAX_SEEDS = 1_000
# Flags with which nothing is run, and what means something beside them.
PLACES = {"output_dir", "data_dir", "offline"}
READING = {"version": set(), "list": set(), "report": PLACES, "compare": PLACES}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    runs: list[Run]
    output_dir: Path
    text: str | None = None  # to be printed instead, as the list of rows
    is_sweep: bool = False
    dry_run: bool = False
    report: bool = False
    compare: tuple[str, str] | None = None
    keep: Keep = field(default_factory=Keep)
    cluster: ClusterRequest | None = None  # that computes; none is this process
    data_dir: Path = Path(OPTIONS["data_dir"].default)  # where a report finds the messages
    offline: bool = False  # whether it must find them there


def parse_command_line(argv: Sequence[str]) -> Request:
    """Turn the command line into a request, and say on standard error which row a run is.

    Raises:
        ConfigError: with every problem of the command line.
    """
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(argv)
    texts = vars(namespace)
    asked = {name: texts.pop(name) for name in ACTIONS if name in texts}
    if asked.get("rows") == ["list"]:
        asked["list"] = asked.pop("rows")
    given, problems_of_options = parse_options(texts)
    problems = parser.problems + problems_of_options
    rows, problems_of_rows = [None], []
    if "rows" in asked:
        rows, problems_of_rows = parse_rows(" ".join(asked["rows"]))
    seeds, problems_of_seeds = parse_seeds(asked, given)
    keep, problems_of_keep = parse_keep(asked)
    cluster, problems_of_cluster = parse_cluster(asked, given)
    problems += problems_of_rows + problems_of_seeds + problems_of_keep + problems_of_cluster
    problems += _find_conflicts(asked, given)
    is_sweep = len(rows) > 1 or not {"seeds", "num_seeds", "ray"}.isdisjoint(asked)
    runs, problems_of_runs = _make_runs(rows, seeds, asked, given)
    problems += problems_of_runs
    output_dir = Path(asked.get("output_dir", "runs/demo" if "demo" in given else "runs"))
    problems += _check_output_dir(asked, output_dir)
    if keep.export_dir and is_sweep:
        problems.append("--export_hf with many runs: one folder holds one model; export one run")
    elif keep.export_dir and runs:
        problems += export_problems(runs[0].config)
        problems += _check_export_dir(keep.export_dir, output_dir)
    if is_launched() and not problems:
        problems += _find_launch_problems(asked, runs, is_sweep)
    problems += name_unknown(unknown, explained=any(map(find_joined, given.values())))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if "version" in asked or "list" in asked:
        text = list_rows() if "list" in asked else describe_version()
        return Request([], output_dir, text)
    reads_only = not READING.keys().isdisjoint(asked)
    if not is_sweep and not reads_only:
        _announce_row(runs[0].config, rows[0])
    return Request(
        runs=[] if reads_only else runs,
        output_dir=output_dir,
        is_sweep=is_sweep,
        dry_run="dry_run" in asked,
        report="report" in asked,
        compare=tuple(asked["compare"]) if "compare" in asked else None,
        keep=keep,
        cluster=cluster,
        data_dir=Path(runs[0].config.data_dir),
        offline=runs[0].config.offline,
    )


def _make_runs(
    rows: Sequence[int | None],
    seeds: Sequence[int],
    asked: Mapping[str, Any],
    given: Mapping[str, Any],
) -> tuple[list[Run], list[str]]:
    """A run for each row and seed, and the problems of their options."""
    overrides = None
    if "rows" in asked:
        overrides = {name: given[name] for name in given if name not in CIRCUMSTANCES}
    # What is computed elsewhere need not be possible here.
    find = config_problems if asked.get("ray", LOCAL) == LOCAL else option_problems
    runs, by_row = [], {}
    configs = {number: configure(ROWS.get(number), given) for number in rows}
    uses_lora = any(config.uses_lora for config in configs.values())
    for number, config in configs.items():
        # Beside rows that use LoRA, its flags are for them, and no mistake for the others.
        ignored = LORA_FLAGS if uses_lora and not config.uses_lora else ()
        by_row[number] = find(config, {n: v for n, v in given.items() if n not in ignored})
        runs += [Run(replace(config, seed=seed), overrides) for seed in seeds]
    return runs, _name_rows(by_row)


def parse_seeds(asked: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """The seeds of --seeds, --num_seeds and --seed, and a problem for each that is none."""
    first = given.get("seed", OPTIONS["seed"].default)
    if "seeds" in asked:
        seeds, problems = [], []
        for text in asked["seeds"]:
            try:
                seeds.append(parse_value(OPTIONS["seed"], text, "--seeds"))
            except ValueError as error:
                problems.append(str(error))
        for seed in seeds:
            problems += check_value(OPTIONS["seed"], seed, "--seeds")
        if "num_seeds" in asked or "seed" in given:
            problems.append("--seeds with --num_seeds or --seed: give one of them")
        return list(dict.fromkeys(seeds)), problems
    text, last = asked.get("num_seeds", "1"), OPTIONS["seed"].metadata["maximum"]
    if not re.fullmatch(r"\d{1,6}", text) or not 1 <= int(text) <= MAX_SEEDS:
        return [first], [f"--num_seeds {shorten(text)}: not a whole number from 1 to {MAX_SEEDS}"]
    if first <= last < first + int(text) - 1:
        return [first], [
            f"--num_seeds {text} with --seed {first}: seeds go up to {last}; take a smaller --seed"
        ]
    return list(range(first, first + int(text))), []


def parse_keep(asked: Mapping[str, Any]) -> tuple[Keep, list[str]]:
    """What is kept of runs, and a problem for each of its flags that is wrong."""
    export_dir = asked.get("export_hf")
    keeps = "resume" in asked or "save_model" in asked or export_dir is not None
    every = asked.get("checkpoint_every", EPOCH if keeps else None)
    problems = []
    if every not in (None, EPOCH):
        if re.fullmatch(r"\d{1,9}", every) and int(every):
            every = int(every)
        else:
            problems.append(
                f"--checkpoint_every {shorten(every)}: not epoch, and not a whole number from 1 on"
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
    doing = _exclusive(asked)
    problems = []
    if len(doing) > 1:
        problems.append(f"{' with '.join(f'--{name}' for name in doing)}: give one of them")
    if doing and doing[0] in READING:
        others = {*given, *asked} - READING[doing[0]] - set(doing)
        problems += [
            f"--{name} with --{doing[0]}: nothing is run, so it has no use; leave it out"
            for name in sorted(others)
        ]
    return problems


def _exclusive(asked: Mapping[str, Any]) -> list[str]:
    """The flags of those asked for that are alone in what they do."""
    return [name for name in ("dry_run", *READING) if name in asked]


def _check_output_dir(asked: Mapping[str, Any], output_dir: Path) -> Iterator[str]:
    if asked.get("output_dir") == "":
        yield '--output_dir "": empty; give a folder, or leave --output_dir out'
    elif problem := path_problem("output_dir", output_dir, ROOM):
        yield problem


def _check_export_dir(export_dir: Path, output_dir: Path) -> Iterator[str]:
    """Records are read and replaced, and an exported model is one's own: they stay apart."""
    if problem := path_problem("export_hf", export_dir, ROOM):
        yield problem
        return
    export, output = (Path(os.path.realpath(folder)) for folder in (export_dir, output_dir))
    if export == output or output in export.parents or export in output.parents:
        yield (
            f"--export_hf {export_dir} with --output_dir {output_dir}: one is inside the other; "
            "export to a folder apart from the records"
        )
    elif any((folder / RESULT_NAME).exists() for folder in (export, *export.parents)):
        yield (
            f"--export_hf {export_dir}: that is the folder of a run, or inside one; export to a "
            "folder apart from the records"
        )


def _find_launch_problems(
    asked: Mapping[str, Any], runs: Sequence[Run], is_sweep: bool
) -> list[str]:
    """What torchrun's processes cannot do, or too many of them."""
    if doing := _exclusive(asked):
        return [f"--{doing[0]} with torchrun: nothing is run; give the same command to python"]
    if is_sweep:
        return [
            "many runs with torchrun: its processes share one; give the same command to python, "
            "or spread runs over machines with --ray"
        ]
    from ablation.system.machine import (
        choose_device,  # with PyTorch, which torchrun has imported before
    )
    from ablation.system.parallel import launch_problems

    config = runs[0].config
    n_texts = config.batch_size * config.accumulation_steps
    return launch_problems(choose_device(config.device), n_texts)


def _name_rows(by_row: Mapping[int | None, Sequence[str]]) -> list[str]:
    """The problems of each row with its number; those of every row are no row's fault."""
    common = [p for p in next(iter(by_row.values()), []) if all(p in ps for ps in by_row.values())]
    return common + [
        f"row {number}: {problem}"
        for number, problems in by_row.items()
        for problem in problems
        if problem not in common
    ]


def _announce_row(config: ExperimentConfig, asked: int | None) -> None:
    for number, row in ROWS.items():
        differing = differing_options(config, row)
        if not differing:
            logger.info("Row %d: %s", number, row.command)
        elif number == asked:
            flags = format_flags(differing)
            logger.info("A variant of row %d, not the row, because of %s", number, flags)
    if asked is None and not row_number(config) and not config.demo:
        logger.info("Running: %s", format_command(config))
