"""What pairs of rows show of the questions that the rows were made for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ablation.config.tables import Name
from ablation.reports.comparisons import (
    ALPHA,
    Difference,
    compare,
    detectable_points,
    holm,
    smallest_difference,
)
from ablation.reports.folds import compare_folds
from ablation.reports.tables import SINGLE, Configuration, Section

# docs/statistics.md has the figures.
SEEDS_FOR_A_VERDICT = (
    "One seed tells two runs apart, and not two choices: that takes several seeds. Two can show "
    "something only where few comparisons are made; of eighteen, five can show large "
    "differences, and ten show 3 points."
)


def format_p(value: float) -> str:
    """A p-value as it is printed."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def format_interval(difference: Difference) -> str:
    """The 95 % interval of a difference as it is printed."""
    bounds = f"{difference.low:+.2f} to {difference.high:+.2f}"
    return bounds + (SINGLE if difference.is_of_runs else "")


def compare_configurations(a: Configuration, b: Configuration) -> Difference:
    """The difference of two configurations that have the same seeds, and folds if any."""
    if a.fold is None:
        return compare(a.correct, b.correct)
    return compare_folds(a.correct, b.correct, a.fold)


@dataclass(frozen=True)
class Finding:
    """What two rows, or their variants, show of the question that they were made for."""

    question: str
    rows: tuple[Name, Name]
    published: float | None  # the difference of the published figures, in points, if there are any
    seeds: list[int]
    difference: Difference
    corrected_p: float
    n_findings: int  # that p is corrected for

    @property
    def is_open(self) -> bool:
        """Whether more seeds or test texts could show more."""
        return self.difference.is_of_runs or self.corrected_p >= ALPHA

    @property
    def verdict(self) -> str:
        """Of single runs about these two; of others about the published direction, or where
        nothing was published about their own."""
        shown = self.corrected_p < ALPHA
        if self.difference.is_of_runs:
            return f"these two runs {'differ' if shown else 'cannot be told apart'}"
        if not shown:
            return "not distinguishable with this n"
        if self.published is None:
            return f"row {self.rows[1]} is {'better' if self.difference.points > 0 else 'worse'}"
        agrees = self.published * self.difference.points > 0
        return "supported" if agrees else "contradicted"

    @property
    def sentence(self) -> str:
        """The finding in words."""
        text = f"{self.verdict.capitalize()}: {self.difference.points:+.2f} points."
        if self.published is not None:
            signs = {1: "better", 0: "equal", -1: "worse"}
            direction = signs[(self.published > 0) - (self.published < 0)]
            text = f"Published: row {self.rows[1]} {direction}. {text}"
        if self.corrected_p >= ALPHA:
            text += f" {describe_detectable(self.difference, ALPHA / self.n_findings)}"
        return text


def describe_detectable(difference: Difference, alpha: float) -> str:
    """What difference would have been below ``alpha``, rounded up; or that none would."""
    points = detectable_points(difference, alpha)
    if points is None:
        n = difference.n_seeds
        return (
            f"No difference could have shown with {difference.n_messages} test texts and {n} "
            f"seed{'s' if n > 1 else ''}."
        )
    return f"A difference of {math.ceil(10 * points - 1e-6) / 10:.1f} points would have shown."


def compare_rows(section: Section) -> list[Finding]:
    """The comparisons that the rows were made for, of those that were run with a common seed;
    p-values are corrected for how many there are."""
    pairs = []
    for question, rows in section.table.comparisons:
        # Rows that flags made equal to others no longer ask what they were made for.
        a, b = (section.configurations.get(name) for name in rows)
        seeds = sorted({*a.seeds} & {*b.seeds}) if a and b else []
        if seeds:
            difference = compare_configurations(a.with_seeds(seeds), b.with_seeds(seeds))
            pairs.append((question, rows, _published(section, rows), seeds, difference))
    corrected = holm([difference.p for *_, difference in pairs])
    return [Finding(*pair, p, len(pairs)) for pair, p in zip(pairs, corrected, strict=True)]


def _published(section: Section, rows: tuple[Name, Name]) -> float | None:
    first, second = (section.table.rows[name].published.test for name in rows)
    return None if section.overrides or None in (first, second) else second - first


def tabulate_findings(findings: Sequence[Finding]) -> pd.DataFrame:
    """A line for each comparison, texts as they are printed."""
    return pd.DataFrame(
        {
            "rows": f"{finding.rows[0]}, {finding.rows[1]}",
            "question": finding.question,
            "seeds": str(len(finding.seeds)),
            "difference": f"{finding.difference.points:+.2f}",
            "95 % interval": format_interval(finding.difference),
            "p": format_p(finding.difference.p),
            "p, Holm": format_p(finding.corrected_p),
            "finding": finding.sentence,
            "McNemar p by seed": ", ".join(map(format_p, finding.difference.mcnemar)),
        }
        for finding in findings
    )


def describe_smallest(n_messages: int, n_findings: int = 1) -> str:
    """By how little two single runs can never be told apart on so many test texts, as the first of
    some comparisons that are corrected for how many they are."""
    fewest = smallest_difference(ALPHA / n_findings)
    place = "" if n_findings == 1 else f", as the first of {n_findings} corrected comparisons"
    if fewest > n_messages:
        return f"No two single runs can be told apart with {n_messages} test texts{place}."
    return (
        f"Single runs that differ by fewer than {fewest} of {n_messages} test texts "
        f"({100 * fewest / n_messages:.2f} points) can never be told apart{place}."
    )
