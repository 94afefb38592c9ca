"""Which rows a command line asks for: of the source's table, of a file's, or of --vary."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablation.config import rules
from ablation.config.cluster_request import LOCAL
from ablation.config.commands import format_flags
from ablation.config.options import tagged, without
from ablation.config.rows import SOURCE
from ablation.config.runs import Run
from ablation.config.table_files import read_table
from ablation.config.tables import Name, Table, configure, parse_rows
from ablation.config.variations import (
    MANY_RUNS,
    UNNAMED,
    count_rows,
    read_changes,
    unused_problems,
    vary,
)
from ablation.system.errors import ConfigError, Problem, shorten

Given = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Rows of a table, or none of it: one experiment of flags alone."""

    table: Table
    names: list[Name | None]
    beside: Given  # flags that all of them get
    purpose: Mapping[Name, Given]  # flags of a row that were set on purpose, besides those
    overrides: dict[str, Any] | None  # of the flags beside rows, those that make variants of them


def choose_rows(asked: Given, given: Given, n_seeds: int) -> tuple[Choice, list[Problem]]:
    """What --table, --rows, --vary and --cross ask for, and their problems."""
    table, problems = SOURCE, []
    if asked.get("table"):  # an empty name was said to be one
        try:
            table = read_table(Path(asked["table"]))
        except ConfigError as error:
            flag = f'--table "{shorten(asked["table"])}"'
            problems += [problem.within(flag) for problem in error.problems]
    names: list[Name | None] = list(table.rows) if "table" in asked else [None]
    if "rows" in asked:
        names, row_problems = parse_rows(" ".join(asked["rows"]), table)
        if not problems:  # else they may be of the table that cannot be read
            problems += row_problems
    choosing = {name: given[name] for name in given if name in without("circumstance", "repeat")}
    for name in ("cross", "yes"):
        if name in asked and "vary" not in asked:
            sentence = "there is nothing to combine; leave it out"
            problems.append(Problem(f"--{name} without --vary", sentence))
    if "vary" not in asked:
        return Choice(table, names, given, {}, None if names == [None] else choosing), problems
    changes, vary_problems = read_changes(asked["vary"])
    bases = [UNNAMED if name is None else table.rows[name] for name in names]
    n_repeats = n_seeds * asked.get("folds", 1)
    n_runs = n_repeats * count_rows(len(bases), changes, "cross" in asked)
    if n_runs > MANY_RUNS and "yes" not in asked:
        changes = {}
        sentence = f"up to {n_runs:,} runs; give fewer values or --seeds, or add --yes"
        vary_problems.append(Problem("--vary", sentence))
    problems += vary_problems
    try:
        format_flags(choosing).encode()
    except UnicodeEncodeError:
        sentence = "it writes a table, which is a file of UTF-8; rename what the path leads to"
        problems.append(Problem("--vary with a path that is not UTF-8", sentence))
    table, purpose = vary(bases, choosing, changes, "cross" in asked)
    problems += unused_problems(table, changes)
    if changes and not problems and len(table.rows) == len(bases):
        problems.append(Problem("--vary", "all values are those of the base already; give others"))
    beside = {name: value for name, value in given.items() if name not in choosing}
    return Choice(table, list(table.rows), beside, purpose, {}), problems


def make_runs(choice: Choice, seeds: list[int], asked: Given) -> tuple[list[Run], list[Problem]]:
    """A run for each row and seed, and the problems of their options: those of some rows only
    name these."""
    # What is computed elsewhere need not be possible here.
    is_here, n_folds = asked.get("ray", LOCAL) == LOCAL, asked.get("folds", 0)
    problems_of = rules.config_problems if is_here else rules.option_problems
    configs = {name: configure(choice.table.rows.get(name), choice.beside) for name in choice.names}
    uses_lora = any(config.uses_lora for config in configs.values())
    by_row = {}
    for name, config in configs.items():
        given = {**choice.beside, **choice.purpose.get(name, {})}
        # Beside rows that use LoRA, its flags are for them, and no mistake for the others.
        ignored = tagged("lora") if uses_lora and not config.uses_lora else ()
        if config.dataset and n_folds > 1:
            config = replace(config, fold=f"1/{n_folds}")
        by_row[name] = problems_of(config, {n: v for n, v in given.items() if n not in ignored})
    everywhere = set.intersection(*map(set, by_row.values())) if by_row else set()
    problems = [p for p in next(iter(by_row.values()), []) if p in everywhere] + [
        problem.within(f"row {name}")
        for name, found in by_row.items()
        for problem in found
        if problem not in everywhere
    ]
    if n_folds and "fold" in choice.beside:
        problems.append(Problem("--folds with --fold", "give one of them"))
    if n_folds and not all(config.dataset for config in configs.values()):
        sentence = "the SMS data have one split, the published one; give texts of your own"
        problems.append(Problem("--folds without --dataset", sentence))
    folds = [{"fold": f"{i}/{n_folds}"} for i in range(1, n_folds + 1)] or [{}]
    runs = [
        Run(replace(config, seed=seed, **fold), choice.overrides, choice.table)
        for config in configs.values()
        for seed in seeds
        for fold in folds
    ]
    return runs, problems
