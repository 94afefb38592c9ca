"""What a section of a report answers beyond its pairs of rows: what each option does on average,
which value one would choose, and what it would take to say more."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.commands import format_value
from ablation.config.options import without
from ablation.config.tables import Name, Table
from ablation.reports.effects import (
    Group,
    Runs,
    Validation,
    choose_on_validation,
    group_rows,
    mean_effects,
    tabulate_effects,
)
from ablation.reports.findings import Finding, compare_rows
from ablation.reports.planning import (
    DEFAULT,
    MOST_TEXTS,
    N_REPEATS,
    POWER,
    describe_spread,
    estimate_spread,
    tabulate_plan,
)
from ablation.reports.pooling import pool_records
from ablation.reports.tables import (
    OTHERS_TITLE,
    Configuration,
    Section,
    group_records,
    mean_and_deviation,
    require_one_dataset,
    require_same_texts,
)
from ablation.sweeps.records import read_records, require_one_base
from ablation.system.text_tables import align_wrapped, fill

N_REPEATS_OF_REPORT = 400  # a report comes with every sweep, and is not to take long
DEFAULT_TEXTS = 300  # of the SMS Spam Collection
# What a report asks for, and where accuracies vary by more points than that over seeds.
POINTS, LARGE_SPREAD, LARGE_POINTS = (1.0, 2.0, 3.0, 5.0), 2.0, (2.0, 5.0, 10.0, 20.0)
N_NAMED = 10  # rows
MANY_DF = 8  # from so many on, a spread over seeds is known to within a factor of about 2


def _groups(section: Section) -> tuple[list[Group], dict[Any, Runs]]:
    """The rows of a section that were run: those that differ in one option alone, and by seed what
    each got right."""
    names = without("circumstance", "repeat", "local")
    parts = section.configurations
    options = {
        row: {name: getattr(part.records[0].config, name) for name in names}
        for row, part in parts.items()
    }
    runs = {row: dict(zip(part.seeds, part.correct, strict=True)) for row, part in parts.items()}
    return group_rows(options), runs


def answer_options(section: Section) -> dict[str, pd.DataFrame]:
    """The tables of mean effects and of chosen values; either may be empty."""
    groups, runs = _groups(section)
    return {
        "effects": tabulate_effects(mean_effects(groups, runs, section.fold)),
        "choices": pd.DataFrame(
            line for group in groups if (line := _choose(section, group, runs)) is not None
        ),
    }


def _choose(section: Section, group: Group, runs: dict[Any, Runs]) -> dict[str, str] | None:
    """The line of a group of rows, texts as they are printed; none if no seed is in common."""
    parts = {row: section.configurations[row] for row in group.rows.values()}
    validation = {row: _validation(part) for row, part in parts.items()}
    choice = choose_on_validation(group, validation, runs)
    if not choice:
        return None
    chosen = parts[choice.row].with_seeds(choice.seeds)
    best = ", ".join(map(format_value, choice.best_on_test))
    means = [part.with_seeds(choice.seeds).percent("test").mean() for part in parts.values()]
    return {
        "option": group.option,
        "values": ", ".join(map(format_value, group.rows)),
        "the first is row": str(next(iter(group.rows.values()))),
        "seeds": str(len(choice.seeds)),
        "chosen": format_value(choice.value) + (" (by loss)" if choice.tied else ""),
        "its row": str(choice.row),
        "val %": mean_and_deviation(chosen.percent("validation")),
        "test %": mean_and_deviation(chosen.percent("test")),
        "95 % interval": chosen.shown_interval,
        "best of test": f"{best}: {max(means):.2f}",
    }


def _validation(part: Configuration) -> Validation:
    histories = {record.config.seed: record.result["history"] for record in part.records}
    return Validation(
        {record.config.seed: record.accuracy("validation").correct for record in part.records},
        {seed: _last_loss(history) for seed, history in histories.items()},
    )


def _last_loss(history: Mapping[str, Any]) -> float:
    """The last validation loss of the weights that were evaluated: of the epoch that was kept, if
    one was."""
    if epoch := history.get("kept_epoch"):
        return history["validations"][epoch - 1]["loss"]
    return history["losses"][-1]["validation"] if history["losses"] else math.nan


# ---------------------------------------------------------------- what it would take


def plan_section(section: Section, findings: Sequence[Finding]) -> dict[str, Any] | None:
    """What differences would take where some comparisons could not be decided: the rows of these
    are what it rests on. None if all were; and of folds, which the plan knows nothing of."""
    open_ = [finding for finding in findings if finding.is_open]
    if not open_ or section.fold is not None:
        return None
    rows = {row for finding in open_ for row in finding.rows}
    parts = [part for row, part in section.configurations.items() if row in rows]
    return {
        "title": section.title,
        **_plan(parts, (), [len(findings)], N_REPEATS_OF_REPORT),
    }


def describe_plan(
    points: float,
    output_dir: Path,
    tables: Sequence[Table],
    asked: Table,
    rows: Sequence[Name] = (),
) -> str:
    """What a difference of so many points takes, in words and as a table: by the runs of each
    section of a folder, or if there are none by default.

    Args:
        tables: whose sections the folder may have.
        asked: whose comparisons count where nothing was run.
        rows: what it rests on; by default, all that were run.

    Raises:
        RecordError: records do not belong together.
    """
    complete = [record for record in read_records(output_dir) if record.is_complete]
    require_one_dataset(complete)
    require_one_base(complete)
    complete = pool_records(complete)
    require_same_texts(complete)
    sections, others = group_records(complete, tables)
    groups = []
    for section in sections:
        parts = [p for name, p in section.configurations.items() if not rows or name in rows]
        groups.append((section.title, len(compare_rows(section)), parts))
    groups.append((OTHERS_TITLE, 1, [] if rows else others))
    groups = [group for group in groups if group[2]]
    if not groups:
        pairs = [pair for _, pair in asked.comparisons if not rows or {*pair} <= {*rows}]
        groups = [("", len(pairs), [])]
    texts = []
    for title, count, parts in groups:
        plan = _plan(parts, (points,), [count, 1] if count > 1 else [1], place=f" in {output_dir}")
        lines = [*([title] if title else []), plan["says"], plan["rests_on"]]
        texts.append("\n".join([*map(fill, lines), align_wrapped(plan["table"])]))
    return "\n\n".join(texts)


def _plan(
    parts: Sequence[Configuration],
    points: tuple[float, ...],
    counts: Sequence[int],
    n_repeats: int = N_REPEATS,
    place: str = "",
) -> dict[str, Any]:
    """A plan's table, and in words what it says and what it rests on, and where that is;
    ``points`` that are not given are chosen by the spread."""
    n_texts = parts[0].correct.shape[1] if parts else DEFAULT_TEXTS
    # Over folds, the accuracy of a seed is a mean over models, which hides how single ones vary.
    known = [part.correct if part.fold is None else part.correct.reshape(1, -1) for part in parts]
    spread = estimate_spread(known) if parts else DEFAULT
    points = points or (POINTS if spread.points < LARGE_SPREAD else LARGE_POINTS)
    table = tabulate_plan(spread, points, counts, n_texts, n_repeats)
    first = f", as the first of {counts[0]} comparisons that are corrected for" * (len(counts) == 1)
    return {
        "says": (
            f"About how many test texts a difference takes to show with probability {POWER:g}"
            f"{first if counts[0] > 1 else ''}; in brackets, with which probability it shows with "
            f"{min(n_texts, MOST_TEXTS):,} test texts. Not reachable: seeds alone vary too much."
        ),
        "rests_on": f"{_basis(parts, place)} {describe_spread(spread)}.",
        "table": table,
    }


def _basis(parts: Sequence[Configuration], place: str) -> str:
    """What a spread was taken from, in words that go on with what it is."""
    if not parts:
        return f"No runs to go by{place}: this assumes"
    labels = [part.label for part in parts]
    rows = f"row{'s' * (len(parts) > 1)} {', '.join(labels)}"
    if len(parts) > N_NAMED or not all(labels):
        rows = f"{len(parts)} configuration{'s' * (len(parts) > 1)}"
    rows += place
    if any(part.fold is not None for part in parts):
        return (
            f"From {rows}, whose runs are on folds: this takes their accuracy, and for runs on one "
            "split assumes the rest:"
        )
    fewest, most = (f(len(part.records) for part in parts) for f in (min, max))
    seeds = f"{fewest} to {most}" if fewest < most else str(most)
    if most == 1:
        return (
            f"From one seed of {rows}, which shows nothing of how seeds vary: this takes its "
            "accuracy, and assumes the rest:"
        )
    df = sum(len(part.records) - 1 for part in parts)
    unsure = ", which are too few to know well how seeds vary" if df < MANY_DF else ""
    return f"From {seeds} seeds of {rows}{unsure}:"
