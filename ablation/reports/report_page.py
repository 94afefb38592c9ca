"""What stands in a report: records -> the blocks of its page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pandas as pd

from ablation.config.rows import ROWS
from ablation.reports import pictures
from ablation.reports.baseline import classify_by_characters, copied_texts
from ablation.reports.class_figures import ClassFigures
from ablation.reports.comparisons import accuracy_interval
from ablation.reports.findings import describe_smallest, find_differences, tabulate_findings
from ablation.reports.pages import Block, Heading, Paragraph, Picture, Table, Terms
from ablation.reports.report_explanation import EXPLANATION
from ablation.reports.tables import BASELINE, Configuration, Section, figures, tabulate
from ablation.sweeps.records import Record
from data_utils import Corpus, Splits

TITLE = "Which choices matter when a GPT is finetuned as a classifier?"
OTHERS_TITLE = "Other configurations"
N_HARDEST = 10


@dataclass(frozen=True)
class ReportData:
    """What a report is on: its records, grouped, and the texts that they were made on."""

    records: Sequence[Record]
    sections: Sequence[Section]
    others: Sequence[Configuration]
    corpus: Corpus

    @property
    def is_own(self) -> bool:
        """Whether the texts are one's own. Runs that failed do not choose them."""
        complete = [record for record in self.records if record.is_complete]
        return bool((complete or self.records)[0].config.dataset)

    @property
    def named(self) -> list[tuple[str, Configuration]]:
        """All configurations, by their rows, with a word that tells variants from rows."""
        in_sections = [
            (f"{part.label}, variant" if section.overrides else part.label, part)
            for section in self.sections
            for part in section.configurations.values()
        ]
        return in_sections + [("", part) for part in self.others]


def compose(data: ReportData) -> list[Block]:
    """The page, from its title to the explanation of its words."""
    corpus = data.corpus
    baseline = classify_by_characters(corpus.parts)
    names = (f"{number:02d}-" for number in count(1))  # of the files of pictures
    blocks = [*_introduce(data.records)]
    for section in data.sections:
        # On one's own data, nothing is as published.
        if section.configurations or not data.is_own:
            blocks += _describe_section(section, baseline, corpus, names)
    blocks += describe_others(data.others)
    # Of the messages, all classes are of one size, and old records say nothing of them.
    own = [(row, part) for row, part in data.named if part.records[0].config.dataset]
    if own:
        blocks += _describe_classes(own, names)
    blocks += _audit(data.named, baseline, corpus.parts)
    blocks += _list_incomplete(data.records)
    return [*blocks, Heading("How to read it"), Terms(EXPLANATION)]


def _introduce(records: Sequence[Record]) -> Iterator[Block]:
    complete = [record for record in records if record.is_complete]

    def every(*path: str) -> str:
        values = []
        for record in records:
            value = record.result
            for key in path:
                value = (value or {}).get(key)
            if value is not None:  # a failed run does not know its data
                values.append(str(value))
        return ", ".join(dict.fromkeys(values)) or "unknown"

    commits = re.sub("([0-9a-f]{12})[0-9a-f]+", r"\1", every("commit"))
    yield Heading(TITLE, level=1)
    yield Paragraph(
        f"{len(complete)} complete runs and {len(records) - len(complete)} that failed or were "
        f"interrupted. Data: {every('data', 'name')}. Device: {every('device', 'name')} "
        f"({every('device', 'threads')} threads). PyTorch {every('versions', 'torch')}. "
        f"Commit: {commits}."
    )


def _describe_section(
    section: Section, baseline: Splits[np.ndarray], corpus: Corpus, names: Iterator[str]
) -> Iterator[Block]:
    yield Heading(section.title)
    if not section.configurations:
        yield Paragraph("None of them was run as published.")
        yield Table.of(tabulate(section))
        return
    yield Table.of(tabulate(section, baseline))
    yield from _describe_findings(section)
    yield Heading("Pictures", level=3)
    yield from _draw(section, names)
    yield from _show_hardest([*section.configurations.values()], corpus)


def _describe_findings(section: Section) -> Iterator[Block]:
    findings = find_differences(section)
    if not findings:
        return
    n = findings[0].difference.n_messages
    yield Heading("What the rows were made to find out", level=3)
    yield Paragraph(
        "The difference is the second row's test accuracy minus the first's, in points. "
        + " ".join(dict.fromkeys(describe_smallest(n, k) for k in (1, len(findings))))
    )
    yield Table.of(tabulate_findings(findings))


def _draw(section: Section, names: Iterator[str]) -> Iterator[Picture]:
    """The pictures of a section."""
    parts = [*section.configurations.values()]
    points = [_point(number, part) for number, part in section.configurations.items()]
    if section.overrides:
        points = [replace(point, published=None) for point in points]
    curves = {part.label: [_curve(record) for record in part.records] for part in parts}
    drawn = [
        ("accuracy", "Test accuracy by row", pictures.accuracy_by_row(points)),
        ("minutes", "Test accuracy against minutes", pictures.accuracy_by_minutes(points)),
        ("learning", "Losses by step and row", pictures.learning_curves(curves)),
    ]
    wrong = _wrong(parts)
    if wrong.any():
        labels = [part.label for part in parts]
        drawn.append(("errors", "Messages wrong by row", pictures.error_map(labels, wrong)))
    for name, description, svg in drawn:
        yield Picture(f"{next(names)}{name}.svg", description, svg)


def _wrong(parts: Sequence[Configuration]) -> np.ndarray:
    """(configurations, messages): the share of seeds that got each message wrong."""
    return np.stack([1 - part.correct.mean(axis=0) for part in parts])


def _point(number: int, configuration: Configuration) -> pictures.Point:
    return pictures.Point(
        label=configuration.label,
        mean=float(configuration.percent("test").mean()),
        interval=accuracy_interval(configuration.correct),
        minutes=configuration.minutes,
        published=ROWS[number].test,
    )


def _curve(record: Record) -> dict[str, list[float]]:
    losses = record.result["history"]["losses"]
    return {name: [loss[name] for loss in losses] for name in ("step", "train", "validation")}


def _show_hardest(parts: Sequence[Configuration], corpus: Corpus) -> Iterator[Block]:
    mean = _wrong(parts).mean(axis=0)
    hardest = [i for i in np.argsort(-mean, kind="stable")[:N_HARDEST] if mean[i] > 0]
    texts, classes = corpus.parts.test["Text"].tolist(), corpus.parts.test["Label"].tolist()
    if hardest:
        yield Heading("The hardest messages", level=3)
        yield Table(
            ["message", "wrong", "is", "text"],
            [
                [str(i), f"{100 * mean[i]:.0f} %", corpus.class_names[classes[i]], texts[i]]
                for i in hardest
            ],
        )


def describe_others(others: Sequence[Configuration]) -> list[Block]:
    """The configurations that belong to no section."""
    if not others:
        return []
    return [Heading(OTHERS_TITLE), Table.of(tabulate_others(others))]


def tabulate_others(others: Sequence[Configuration]) -> pd.DataFrame:
    """A line for each configuration, texts as they are printed."""
    return pd.DataFrame({"command": part.flags, **figures(part)} for part in others)


def _describe_classes(
    named: Sequence[tuple[str, Configuration]], names: Iterator[str]
) -> Iterator[Block]:
    classes = [
        ClassFigures([record.result["test"] for record in part.records]) for _, part in named
    ]
    yield Heading("By class")
    yield Paragraph("Of the test texts, in %, the mean over seeds:")
    yield Table.of(
        pd.DataFrame(
            {"row": row, "flags": part.flags, **figures_of.summary()}
            for (row, part), figures_of in zip(named, classes, strict=True)
        ).fillna("")
    )
    for (row, part), figures_of in zip(named, classes, strict=True):
        yield Heading(f"Row {row}: {part.flags}" if row else part.flags, level=3)
        yield Paragraph(figures_of.confusions())
        yield Table.of(figures_of.table())
        yield Picture(
            f"{next(names)}confusion.svg",
            "How many texts of each class were taken for which",
            pictures.confusion_matrix(figures_of.labels, figures_of.confusion),
        )


def _audit(
    named: Sequence[tuple[str, Configuration]],
    baseline: Splits[np.ndarray],
    messages: Splits[pd.DataFrame],
) -> Iterator[Block]:
    copies = copied_texts(messages)
    n = len(messages.test)
    yield Heading("Test messages that stand in the training part")
    yield Paragraph(
        f"Of {n} test messages, {copies['verbatim'].sum()} stand in the training part word for "
        f"word, and {copies['letters'].sum()} when only letters are compared. Mean test "
        "accuracy in %, on all and without them:"
    )
    kept = {
        f"all {n}": np.ones(n, dtype=bool),
        f"without verbatim copies ({(~copies['verbatim']).sum()})": ~copies["verbatim"],
        f"without equal letters ({(~copies['letters']).sum()})": ~copies["letters"],
    }
    lines = [(row, part.flags, part.correct) for row, part in named]
    lines.append(("", BASELINE, baseline.test[None]))
    yield Table(
        ["row", "flags", *kept],
        [
            [
                row,
                flags,
                *(
                    f"{100 * correct[:, mask].mean():.2f}" if mask.any() else "none left"
                    for mask in kept.values()
                ),
            ]
            for row, flags, correct in lines
        ],
    )


def _list_incomplete(records: Sequence[Record]) -> list[Block]:
    incomplete = [record.result for record in records if not record.is_complete]
    if not incomplete:
        return []
    rows = [[result["command"], result["error"]] for result in incomplete]
    return [Heading("Runs that failed or were interrupted"), Table(["command", "error"], rows)]
