"""What to run next: the commands that would say more than a report can."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ablation.config.commands import SCRIPT, format_flags
from ablation.config.kept_tables import kept_path
from ablation.config.options import changed_options, tagged
from ablation.config.published import PUBLISHED_SEED
from ablation.config.rows import SOURCE
from ablation.config.rules import config_problems
from ablation.config.runs import SEEDS_TO_DECIDE
from ablation.config.tables import Name, configure
from ablation.reports.findings import Finding
from ablation.reports.tables import Configuration, Section
from ablation.sweeps.records import Record
from ablation.system.output import printable

MOST = 2  # suggestions
POINTS = 3  # a difference that people want to see


class Next(NamedTuple):
    """A command, and why one would run it."""

    why: str
    command: str


def suggest_runs(
    sections: Sequence[tuple[Section, Sequence[Finding]]],
    incomplete: Sequence[Record],
    output_dir: Path,
) -> list[Next]:
    """What would say more, the most useful first.

    Args:
        sections: of which some rows ran, each with its findings.
        incomplete: the runs that failed or were stopped.
        output_dir: of the records.
    """
    place = {"output_dir": str(output_dir)}
    again = [_repeat(record, len(incomplete), place) for record in incomplete[:1]]
    found = [
        suggestion
        for section, findings in sections
        for suggestion in _suggest(section, findings, place)
    ]
    first = {suggestion.why: suggestion for suggestion in reversed([*again, *found])}
    several = [first[why] for why in dict.fromkeys(one.why for one in [*again, *found])]
    return [Next(why, printable(command)) for why, command in several[:MOST]]


def _repeat(record: Record, n_incomplete: int, place: Mapping[str, str]) -> Next:
    which = f" (the first of {n_incomplete})" if n_incomplete > 1 else ""
    changed, here = changed_options(record.config), tagged("circumstance")
    flags = {name: changed[name] for name in here if name in changed}
    command = f"{record.result['command']} {format_flags({**flags, 'resume': True, **place})}"
    return Next(f"Go on with what failed or stopped{which}:", command)


def suggest_seeds(part: Configuration, output_dir: Path) -> Next:
    """More seeds of a configuration that is of no row."""
    flags = {**_folds(part), **_seeds({*part.seeds}), "output_dir": str(output_dir)}
    command = f"{part.command} {format_flags(flags)}"
    return Next(f"{SEEDS_TO_DECIDE} seeds, to see how much is chance:", printable(command))


def _folds(part: Configuration) -> dict[str, int]:
    return {} if part.fold is None else {"folds": int(part.fold.max())}


def _suggest(
    section: Section, findings: Sequence[Finding], place: Mapping[str, str]
) -> Iterator[Next]:
    parts = section.configurations
    given = {**section.overrides, **place}
    if section.table != SOURCE:
        given = {"table": str(kept_path(section.table, Path(place["output_dir"]))), **given}
    given |= _folds(next(iter(parts.values())))
    fewest = min(len(part.seeds) for part in parts.values())
    if any(finding.is_open for finding in findings):
        if fewest < SEEDS_TO_DECIDE:
            seeds = _seeds({seed for part in parts.values() for seed in part.seeds})
            yield Next(
                f"{SEEDS_TO_DECIDE} seeds, to tell choices apart and not only runs:",
                _command({"rows": format_rows(parts), **seeds, **given}),
            )
        elif section.fold is None:
            yield Next(
                f"How many seeds and texts {POINTS} points take:",
                _command({"plan": POINTS, **place}),
            )
    for question, (first, second) in section.table.comparisons:
        config = configure(section.table.rows[second], section.overrides)
        is_open = second not in parts and second not in section.same
        if first in parts and is_open and not config_problems(config):
            seeds = _seeds(set(parts[first].seeds), len(parts[first].seeds))
            yield Next(
                f"The next question, {question}:",
                _command({"rows": second, **seeds, **given}),
            )
            return


def _command(flags: Mapping[str, object]) -> str:
    return f"{SCRIPT} {format_flags(flags)}"


def _seeds(seeds: set[int], n_at_least: int = SEEDS_TO_DECIDE) -> dict[str, object]:
    """Flags that ask for these seeds, and for later ones until there are enough."""
    later = itertools.count(max(seeds) + 1)
    wanted = sorted([*seeds, *itertools.islice(later, max(0, n_at_least - len(seeds)))])
    if wanted == [PUBLISHED_SEED]:
        return {}
    if wanted == list(range(PUBLISHED_SEED, PUBLISHED_SEED + len(wanted))):
        return {"num_seeds": len(wanted)}
    # Several values, which are typed without quotes.
    return {f"seeds {' '.join(map(str, wanted))}": True}


def format_rows(names: Sequence[Name]) -> str:
    """Rows as --rows takes them: 1-5,16."""
    words: list[list[Name]] = []
    for name in names:
        if isinstance(name, int) and words and words[-1][-1] == name - 1:
            words[-1].append(name)
        else:
            words.append([name])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in words)
