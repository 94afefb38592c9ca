"""The report on the records of a folder: one page, as HTML and as Markdown, and its tables in
short."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation.config.rows import SOURCE
from ablation.config.tables import Table
from ablation.reports import pictures
from ablation.reports.answers import answer_options, plan_section
from ablation.reports.baseline import classify_by_characters, copied_texts
from ablation.reports.class_figures import ClassFigures
from ablation.reports.findings import (
    SEEDS_FOR_A_VERDICT,
    compare_rows,
    describe_smallest,
    tabulate_findings,
)
from ablation.reports.message_map import build_map
from ablation.reports.pages import PICTURES_NAME, REPORT, Picture, render_html, render_markdown
from ablation.reports.pooling import pool_corpora, pool_parts, pool_records
from ablation.reports.tables import (
    BASELINE,
    OTHERS_TITLE,
    Configuration,
    Section,
    figures,
    group_records,
    require_one_dataset,
    require_same_texts,
    tabulate,
)
from ablation.reports.tested_texts import fits, load_corpora
from ablation.sweeps.records import Record, read_records, require_one_base
from ablation.system.errors import RecordError
from ablation.system.files import write_atomically
from ablation.system.output import printable
from ablation.system.text_tables import align_wrapped, fill
from data_utils import Corpus, Splits

TITLE = "Which choices matter when a GPT is finetuned as a classifier?"
N_HARDEST = 10
FOLDS = (
    "Each text was tested once with each seed, in its fold; p is the largest of three t-tests: "
    "over folds, over texts, and over folds and seeds. With one seed, luck that it brings to all "
    "folds cannot be seen; two show it (docs/statistics.md)."
)
SHORT_COLUMNS = [
    *("row", "n", "train %", "val %", "test %", "95 % interval", "min"),
    *("flags", "command"),  # tables have one of these
]


class Report(NamedTuple):
    """What a report says in short, to be printed, and its sections."""

    text: str
    sections: list[Section]


def write_report(
    output_dir: Path,
    data_dir: Path,
    offline: bool = False,
    tables: Sequence[Table] = (SOURCE,),
    asked: tuple[Table, dict[str, Any]] | None = None,
) -> Report:
    """Write ``report.md`` and ``report.html`` on all records of a folder, by the rows of tables.

    Args:
        data_dir: of the messages, which the baseline and the audit read.
        offline: they are not downloaded to it.
        asked: as for :func:`group_records`.

    Raises:
        RecordError: there are no records, they do not belong together, or the report cannot be
            written.
        DataError: the texts are missing or damaged.
    """
    records = read_records(output_dir)
    if not records:
        raise RecordError(
            f"--output_dir {output_dir} holds no records of runs. Run something first, or name "
            "another folder."
        )
    complete = [record for record in records if record.is_complete]
    require_one_dataset(complete)
    require_one_base(complete)
    tested, corpora = load_corpora(records, data_dir, offline)
    records = [record for record in records if fits(record, corpora)]
    if not records:
        raise RecordError(f"--output_dir {output_dir} holds no record that fits its data.")
    complete = pool_records([record for record in records if record.is_complete])
    require_same_texts(complete)
    sections, others = group_records(complete, tables, asked)
    drawn: list[Picture] = []
    values = _page_values(records, sections, others, tested, drawn)
    try:
        (output_dir / PICTURES_NAME).mkdir(exist_ok=True)
        for picture in drawn:
            write_atomically(output_dir / PICTURES_NAME / picture.name, picture.wide)
        write_atomically(output_dir / "report.md", render_markdown(REPORT, values).encode())
        write_atomically(output_dir / "report.html", render_html(REPORT, values).encode())
    except OSError as error:
        raise RecordError(f"The report cannot be written to {output_dir}: {error}") from error
    run = [section for section in sections if section.configurations]
    short = [(section.title, tabulate(section).query("n != ''")) for section in run]
    short += [(OTHERS_TITLE, values["others"])] * bool(others)
    tables = [
        f"{fill(title)}\n{align_wrapped(table.filter(SHORT_COLUMNS))}" for title, table in short
    ]
    place = f"Report: {printable(str(output_dir / 'report.html'))}"
    return Report("\n\n".join([*tables, place]), sections)


def _page_values(
    records: Sequence[Record],
    sections: Sequence[Section],
    others: Sequence[Configuration],
    corpora: Sequence[Corpus],
    drawn: list[Picture],
) -> dict[str, Any]:
    """What enters the template :data:`pages.REPORT`; its pictures are added to ``drawn``."""
    names = (f"{number:02d}-" for number in count(1))

    def draw(picture: Picture | None) -> list[Picture]:
        if not picture:
            return []
        drawn.append(replace(picture, name=f"{next(names)}{picture.name}.svg"))
        return drawn[-1:]

    corpus = pool_corpora(corpora)
    baseline = pool_parts([classify_by_characters(part.parts) for part in corpora])
    found = [copied_texts(part.parts) for part in corpora]
    copies = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    complete = [record for record in records if record.is_complete]
    # On one's own data, nothing is as published. Runs that failed do not choose the data.
    is_own = (complete or records)[0].config.dataset
    named = [
        (f"{part.label}, variant" if section.overrides else part.label, part)
        for section in sections
        for part in section.configurations.values()
    ] + [("", part) for part in others]
    section_values = [
        _section_values(section, baseline, corpus, draw)
        for section in sections
        if section.configurations or not is_own
    ]
    return {
        "title": TITLE,
        "n_complete": len(complete),
        "n_incomplete": len(records) - len(complete),
        "known": _what_is_known(records),
        "sections": section_values,
        "plans": [plan for values in section_values if (plan := values.get("plan"))],
        "others_title": OTHERS_TITLE,
        "others": pd.DataFrame({"command": part.flags, **figures(part)} for part in others),
        "seeds_for_a_verdict": SEEDS_FOR_A_VERDICT,
        "incomplete": pd.DataFrame(
            {"command": record.result["command"], "error": record.result["error"]}
            for record in records
            if not record.is_complete
        ),
        **_class_values(named, draw),
        **_copies_values(named, baseline, copies),
    }


def _what_is_known(records: Sequence[Record]) -> dict[str, str]:
    """What the runs were made with; where they differ, all of it."""
    paths = {
        "data": ("data", "name"),
        "device": ("device", "name"),
        "threads": ("device", "threads"),
        "torch": ("versions", "torch"),
        "commit": ("commit",),
    }
    known = {}
    for name, (first, *rest) in paths.items():
        values = [record.result.get(first) for record in records]
        for key in rest:  # a failed run does not know its data
            values = [(value or {}).get(key) for value in values]
        found = dict.fromkeys(str(value) for value in values if value is not None)
        known[name] = ", ".join(found) or "unknown"
    known["commit"] = re.sub("([0-9a-f]{12})[0-9a-f]+", r"\1", known["commit"])
    return known


def _section_values(
    section: Section, baseline: Splits[np.ndarray], corpus: Corpus, draw: Any
) -> dict[str, Any]:
    parts, rows = [*section.configurations.values()], section.table.rows
    values = {"title": section.title, "was_run": bool(parts)}
    if not parts:
        return {**values, "table": tabulate(section)}
    values["table"] = tabulate(section, baseline)
    if findings := compare_rows(section):
        n = findings[0].difference.n_messages
        values["findings"] = tabulate_findings(findings)
        values["plan"] = plan_section(section, findings)
        values["smallest"] = (
            FOLDS
            if section.fold is not None
            else " ".join(dict.fromkeys(describe_smallest(n, k) for k in (1, len(findings))))
        )
    values |= answer_options(section)
    points = [
        pictures.Point(
            part,
            rows[name].published.test if section.is_published else None,
            f"{part.label} {rows[name].question}".strip(),
        )
        for name, part in section.configurations.items()
    ]
    message_map = build_map(parts, [point.name for point in points], corpus)
    values["pictures"] = [
        *draw(pictures.accuracy(points, 100 * float(baseline.test.mean()))),
        *draw(pictures.minutes(points)),
        *draw(pictures.learning(points)),
        *draw(message_map and message_map.picture),
    ]
    # (configurations, messages): the share of seeds that got each message wrong.
    wrong = np.stack([1 - part.correct.mean(axis=0) for part in parts])
    return {**values, "hardest": _hardest(wrong.mean(axis=0), corpus)}


def _hardest(wrong: np.ndarray, corpus: Corpus) -> pd.DataFrame:
    """The test texts that most get wrong, hardest first.

    Args:
        wrong: (M,): the share of runs that got each text wrong.
    """
    hardest = [i for i in np.argsort(-wrong, kind="stable")[:N_HARDEST] if wrong[i] > 0]
    texts = corpus.parts.test.iloc[hardest]
    return pd.DataFrame(
        {
            "message": map(str, hardest),
            "wrong": [f"{100 * wrong[i]:.0f} %" for i in hardest],
            "is": [corpus.class_names[label] for label in texts["Label"]],
            "text": texts["Text"],
        }
    )


def _class_values(named: Sequence[tuple[str, Configuration]], draw: Any) -> dict[str, Any]:
    """Figures by class, of one's own data: of the messages, all classes are of one size, and old
    records say nothing of them."""
    own = [
        (row, part, ClassFigures([record.result["test"] for record in part.records]))
        for row, part in named
        if part.records[0].config.dataset
    ]
    return {
        "class_summary": pd.DataFrame(
            {"row": row, "flags": part.flags, **classes.summary()} for row, part, classes in own
        ).fillna(""),
        "classes": [
            {
                "title": f"Row {row}: {part.flags}" if row else part.flags,
                "confused": classes.confusions(),
                "table": classes.table(),
                "pictures": draw(pictures.confusion_matrix(classes.class_names, classes.confusion)),
            }
            for row, part, classes in own
        ],
    }


def _copies_values(
    named: Sequence[tuple[str, Configuration]],
    baseline: Splits[np.ndarray],
    copies: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Accuracies without the test texts that stand in the training part, as ``copies`` says of
    each."""
    n = len(copies["verbatim"])
    left = {
        f"all {n}": np.ones(n, dtype=bool),
        f"without verbatim copies ({(~copies['verbatim']).sum()})": ~copies["verbatim"],
        f"without equal letters ({(~copies['letters']).sum()})": ~copies["letters"],
    }
    lines = [(row, part.flags, part.correct) for row, part in named]
    lines.append(("", BASELINE, baseline.test[None]))
    return {
        "n_test": n,
        "n_copies": {name: int(found.sum()) for name, found in copies.items()},
        "without_copies": pd.DataFrame(
            {
                "row": row,
                "flags": flags,
                **{
                    name: f"{100 * correct[:, mask].mean():.2f}" if mask.any() else "none left"
                    for name, mask in left.items()
                },
            }
            for row, flags, correct in lines
        ),
    }
