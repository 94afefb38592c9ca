"""The tables of rows that people read: what ran and what came out, with the rest to unfold."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.config.tables import Name, Published
from ablation.reports.comparisons import accuracy_interval
from ablation.reports.findings import Finding, format_p
from ablation.reports.tables import (
    Section,
    figures,
    format_accuracy_interval,
    judge,
    judge_part,
    own_flags,
)
from data_utils import PARTS

SVM = "a linear SVM on characters"
ONLY_ON_PAGE = ["verdict"]


class RowTable(NamedTuple):
    """A line for each configuration, texts as they are printed, and what unfolds below each."""

    lines: pd.DataFrame
    details: list[dict[str, str]]


def show_rows(section: Section, findings: Sequence[Finding], baseline: np.ndarray) -> RowTable:
    """The rows of a section that ran, and the baseline.

    Args:
        baseline: (M,): which test texts it gets right.
    """
    lines = [*_lines(section, findings), _baseline_line(baseline)]
    details = [_details(section, name) for name in section.configurations]
    return RowTable(pd.DataFrame(lines).fillna(""), [*details, {}])


def shorten_rows(section: Section, findings: Sequence[Finding]) -> pd.DataFrame:
    """The same for a terminal, where the question is last."""
    lines = pd.DataFrame(_lines(section, findings)).drop(columns=ONLY_ON_PAGE, errors="ignore")
    return lines[[*lines.columns.drop("question"), "question"]]


def _lines(section: Section, findings: Sequence[Finding]) -> list[dict[str, str]]:
    found: dict[Name, list[str]] = {name: [] for name in section.configurations}
    for finding in findings:
        found[finding.rows[1]].append(_describe_difference(finding))
    lines = []
    for name, part in section.configurations.items():
        known, row = figures(part), section.table.rows[name]
        line = {
            **describe_row(section, name),
            "seeds": known["n"],
            "test %": known["test %"],
            "95 % interval": known["95 % interval"],
            "difference": "; ".join(found[name]),
        }
        if section.is_published:
            has_figure = row.published.test is not None
            line["published %"] = f"{row.published.test:.2f}" if has_figure else ""
            line["verdict"] = (
                judge_part("test", row, part).removeprefix("test ") if has_figure else ""
            )
        lines.append({**line, "min": known["min"]})
    return lines


def describe_row(section: Section, name: Name) -> dict[str, str]:
    """What a line begins with: the row's name and question."""
    return {"row": str(name), "question": section.table.rows[name].question}


def _baseline_line(correct: np.ndarray) -> dict[str, str]:
    """The line of the baseline: (M,), which test texts it gets right."""
    interval = format_accuracy_interval(*accuracy_interval(correct[None]), is_single=True)
    accuracy = f"{100 * correct.mean():.2f}"
    return {"row": "", "question": SVM, "test %": accuracy, "95 % interval": interval}


def _describe_difference(finding: Finding) -> str:
    """The difference to the row that a row is compared with, and its corrected p."""
    p = format_p(finding.corrected_p)
    p = p if p.startswith("<") else f"= {p}"
    return f"{finding.difference.points:+.2f} to row {finding.rows[0]} (p {p})"


def _details(section: Section, name: Name) -> dict[str, str]:
    part, row = section.configurations[name], section.table.rows[name]
    known = figures(part)
    details = {
        "train %": known["train %"],
        "validation %": known["val %"],
        "parameters trained": known["trained"],
        "seeds": ", ".join(map(str, part.seeds)),
        "command": part.command,
    }
    if section.is_published:
        details["published"] = describe_published(row.published)
        details["beside it"] = judge(row, part)
    return {name: text for name, text in details.items() if text}


def describe_published(published: Published) -> str:
    """Published figures in words; empty if there are none."""
    *accuracies, minutes = asdict(published).values()
    words = [f"{p} {v:.2f} %" for p, v in zip(PARTS, accuracies, strict=True) if v is not None]
    return ", ".join([*words, *([] if minutes is None else [f"{minutes:.2f} min"])])


def show_not_run(section: Section) -> pd.DataFrame:
    """The rows of a section that did not run: what they ask, and what was published of them."""
    lines = []
    for name, row in section.table.rows.items():
        if name not in section.configurations:
            line = describe_row(section, name)
            if same := section.same.get(name):
                line["question"] += f" (here as row {same})"
            if section.is_published:
                impossible = judge(row, None).split("; ")[1:]
                line["published"] = "; ".join([describe_published(row.published), *impossible])
            lines.append({**line, "flags": own_flags(row, section.table)})
    return pd.DataFrame(lines)
