"""Whether what is expected of two rows is what their comparison shows: for ``--fail_unless``."""

from collections.abc import Sequence
from dataclasses import dataclass

from ablation.config.expectations import Expectation
from ablation.config.identity import identify_experiment
from ablation.config.runs import Run
from ablation.reports.comparisons import ALPHA
from ablation.reports.findings import (
    Finding,
    compare_rows,
    describe_detectable,
    format_interval,
    format_p,
)
from ablation.reports.tables import Configuration, Section

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
        finding
        for section in sections
        if not asked or not asked.isdisjoint(map(_experiment, section.configurations.values()))
        for finding in compare_rows(section)
    ]
    return [verdict for expectation in expectations for verdict in judge(expectation, findings)]


def _experiment(part: Configuration) -> str:
    return identify_experiment(part.records[0].config)


def judge(expectation: Expectation, findings: Sequence[Finding]) -> list[Verdict]:
    """A verdict for each finding on the two rows, which a report has once for each set of flags;
    if there is none, the expectation is undecided.

    One seed tells two runs apart, and not two choices, so that it never decides.
    """
    pair = {expectation.better, expectation.worse}
    found = [finding for finding in findings if {*map(str, finding.rows)} == pair]
    if found:
        return [_judge(expectation, finding) for finding in found]
    reason = (
        "There are no complete runs of these two as different experiments with a seed in common."
    )
    return [Verdict(expectation, "undecided", reason)]


def _judge(expectation: Expectation, finding: Finding) -> Verdict:
    difference, n_seeds = finding.difference, len(finding.seeds)
    if difference.is_of_runs:
        reason = "One seed tells two runs apart, and not two choices; give --num_seeds 5 or more."
        return Verdict(expectation, "undecided", reason)
    is_better = (difference.points > 0) == (str(finding.rows[1]) == expectation.better)
    shown = finding.corrected_p < ALPHA
    outcome = "undecided" if not shown else "supported" if is_better else "contradicted"
    reason = (
        f"Row {finding.rows[1]} minus row {finding.rows[0]}: {difference.points:+.2f} points, 95 % "
        f"interval {format_interval(difference)}, {n_seeds} seeds; p {format_p(difference.p)}, "
        f"corrected for {finding.n_findings} comparisons {format_p(finding.corrected_p)}."
    )
    if not shown:
        reason += f" {describe_detectable(difference, ALPHA / finding.n_findings)}"
    return Verdict(expectation, outcome, reason)


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """That of the worst: contradicted, then undecided."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((status for name, status in STATUS.items() if name in outcomes), 0)
