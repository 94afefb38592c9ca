"""Whether what is expected of two rows is what their comparison shows: for ``--fail_unless``."""

from collections.abc import Sequence
from dataclasses import dataclass

from ablation.config.expectations import Expectation
from ablation.config.identity import identify_experiment
from ablation.config.runs import SEEDS_TO_DECIDE, Run
from ablation.reports.comparisons import ALPHA
from ablation.reports.findings import (
    Finding,
    compare_rows,
    describe_detectable,
    format_interval,
    format_p,
)
from ablation.reports.tables import Configuration, Section
from ablation.system.output import count

STATUS = {"contradicted": 1, "undecided": 3, "supported": 0}  # of the exit; the worst first


@dataclass(frozen=True)
class Verdict:
    """On one expectation: one of ``STATUS``, and why."""

    expectation: Expectation
    outcome: str
    reason: str

    @property
    def line(self) -> str:
        """The verdict in words."""
        return f"{self.expectation.text.strip()}: {self.outcome}. {self.reason}"


def judge_sections(
    expectations: Sequence[Expectation], sections: Sequence[Section], runs: Sequence[Run] = ()
) -> list[Verdict]:
    """The verdicts on some expectations by the sections of a report: those that have one of
    ``runs``, or if there are none all."""
    asked = {identify_experiment(run.config) for run in runs}
    findings = [
        (section.title, finding)
        for section in sections
        if not asked or not asked.isdisjoint(map(_experiment, section.configurations.values()))
        for finding in compare_rows(section)
    ]
    return [verdict for expectation in expectations for verdict in judge(expectation, findings)]


def _experiment(part: Configuration) -> str:
    return identify_experiment(part.records[0].config)


def judge(expectation: Expectation, findings: Sequence[tuple[str, Finding]]) -> list[Verdict]:
    """A verdict for each finding on the two rows, which a report may have in several sections; if
    there is none, the expectation is undecided.

    One seed tells two runs apart, and not two choices, so that it never decides.

    Args:
        findings: each with the title of its section.
    """
    pair = {expectation.better, expectation.worse}
    found = [(title, f) for title, f in findings if {*map(str, f.rows)} == pair]
    if found:
        places = [f"{title}: " if len(found) > 1 else "" for title, _ in found]
        return [
            Verdict(expectation, *_judge(expectation, finding, place))
            for place, (_, finding) in zip(places, found, strict=True)
        ]
    reason = (
        "There are no complete runs of these two as different experiments with a seed in common."
    )
    return [Verdict(expectation, "undecided", reason)]


def _judge(expectation: Expectation, finding: Finding, place: str) -> tuple[str, str]:
    """One of ``STATUS`` and why."""
    difference, n_seeds = finding.difference, len(finding.seeds)
    if difference.is_of_runs:
        reason = (
            "One seed tells two runs apart, and not two choices; give --num_seeds "
            f"{SEEDS_TO_DECIDE} or more."
        )
        return "undecided", place + reason
    is_better = (difference.points > 0) == (str(finding.rows[1]) == expectation.better)
    shown = finding.corrected_p < ALPHA
    seeds = f"{n_seeds} seeds"
    if n_seeds == 1:
        seeds = "one seed in all folds, whose luck in all of them cannot be seen"
    outcome = "undecided" if not shown else "supported" if is_better else "contradicted"
    reason = (
        f"{place}Row {finding.rows[1]} minus row {finding.rows[0]}: {difference.points:+.2f} "
        f"points, 95 % interval {format_interval(difference)}, {seeds}; p "
        f"{format_p(difference.p)}, corrected for {count(finding.n_findings, 'comparison')} "
        f"{format_p(finding.corrected_p)}."
    )
    if not shown:
        reason += f" {describe_detectable(difference, ALPHA / finding.n_findings)}"
    return outcome, reason


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """That of the worst: contradicted, then undecided."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((status for name, status in STATUS.items() if name in outcomes), 0)
