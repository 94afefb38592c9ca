"""Groups of rows that differ in one flag, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from ablation.config.commands import format_flags, format_value
from ablation.config.tables import Name
from ablation.reports.comparisons import ALPHA, Difference, holm
from ablation.reports.findings import compare_configurations, format_interval, format_p
from ablation.reports.headlines import capitalize, describe_change
from ablation.reports.row_tables import describe_row
from ablation.reports.tables import Configuration, Section, figures


class Pair(NamedTuple):
    """Two sections of a table that differ in one flag, and how it stands with each."""

    title: str
    first: Section
    second: Section
    labels: tuple[str, str]
    heads: tuple[str, str]  # the labels in short, for headings of columns

    @property
    def rows(self) -> list[tuple[Name, Configuration, Configuration]]:
        """Those that ran in both."""
        other = self.second.configurations
        return [(n, part, other[n]) for n, part in self.first.configurations.items() if n in other]


def pair_sections(sections: Sequence[Section]) -> list[Section | Pair]:
    """Sections in their order, those that differ in one flag and have rows in common as pairs;
    each is in one."""
    left, shown = list(sections), []
    while left:
        section = left.pop(0)
        pairs = [pair for other in left if (pair := _pair(section, other))]
        if not pairs:
            shown.append(section)
            continue
        pair = max(pairs, key=lambda pair: len(pair.rows))
        left = [other for other in left if other not in (pair.first, pair.second)]
        shown.append(pair)
    return shown


def _pair(first: Section, second: Section) -> Pair | None:
    flags = [section.overrides for section in (first, second)]
    names = {**flags[0], **flags[1]}
    differing = [name for name in names if flags[0].get(name) != flags[1].get(name)]
    if first.table != second.table or len(differing) != 1:
        return None
    (name,) = differing
    values = [part.get(name) for part in flags]
    if values[1] is None:  # what has no such flag stands first
        first, second, values = second, first, values[::-1]
    heads = ("without", "with")
    labels = tuple(f"{head} {format_flags({name: values[1]})}" for head in heads)
    title = f"{first.title}, without and {labels[1]}"
    if values[0] is not None:
        heads = tuple(map(format_value, values))
        labels = tuple(f"with {format_flags({name: value})}" for value in values)
        title = f"{first.title}, and {labels[1]}"
    pair = Pair(title, first, second, labels, heads)
    return pair if pair.rows else None


class Change(NamedTuple):
    """What the flag of a pair does to a row."""

    difference: Difference
    n_seeds: int
    corrected_p: float  # for how many rows are compared


def compare_pair(pair: Pair) -> dict[Name, Change]:
    """The changes of the rows that ran in both sections with a seed in common."""
    found = {}
    for name, a, b in pair.rows:
        if seeds := {*a.seeds} & {*b.seeds}:
            compared = compare_configurations(a.with_seeds(seeds), b.with_seeds(seeds))
            found[name] = (compared, len(seeds))
    corrected = holm([difference.p for difference, _ in found.values()])
    return {name: Change(*one, p) for (name, one), p in zip(found.items(), corrected, strict=True)}


def describe_pair(pair: Pair) -> list[str]:
    """The changes that can be told from chance, in sentences."""
    rows = {name: first for name, first, _ in pair.rows}
    return [
        capitalize(
            describe_change(
                f"{pair.labels[1]}, {rows[name].title}", "loses", change.difference, change.n_seeds
            )
        )
        for name, change in compare_pair(pair).items()
        if change.corrected_p < ALPHA
    ]


def tabulate_pair(pair: Pair) -> pd.DataFrame:
    """A line for each row that ran in either, texts as they are printed."""
    changes, lines = compare_pair(pair), []
    for name in pair.first.table.rows:
        sides = [section.configurations.get(name) for section in (pair.first, pair.second)]
        if not any(sides):
            continue
        line = describe_row(pair.first, name)
        for head, part in zip(pair.heads, sides, strict=True):
            line[f"test %, {head}"] = figures(part)["test %"] if part else ""
            line[f"95 % interval, {head}"] = part.shown_interval if part else ""
        if change := changes.get(name):
            line["difference"] = f"{change.difference.points:+.2f}"
            line["its 95 % interval"] = format_interval(change.difference)
            line["p, Holm"] = format_p(change.corrected_p)
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def shorten_pair(pair: Pair) -> pd.DataFrame:
    """The same for a terminal, where the question is last."""
    lines = tabulate_pair(pair)
    kept = [name for name in lines.columns if "interval" not in name and name != "question"]
    return lines[[*kept, "question"]]
