"""What enters the report's template."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ablation.reports import pictures
from ablation.reports.answers import answer_options, plan_section
from ablation.reports.class_figures import LONGEST, ClassFigures
from ablation.reports.explanations import explain_difference
from ablation.reports.findings import (
    SEEDS_FOR_A_VERDICT,
    Finding,
    compare_rows,
    describe_smallest,
    tabulate_findings,
)
from ablation.reports.headlines import (
    Named,
    describe_baseline,
    describe_best,
    describe_common,
    describe_ends,
    describe_findings,
    name_parts,
    warn_of_single_runs,
)
from ablation.reports.material import Material
from ablation.reports.message_map import MessageMap, build_map
from ablation.reports.messages import tabulate_copies, tabulate_hardest
from ablation.reports.next_runs import suggest_runs, suggest_seeds
from ablation.reports.pages import Picture
from ablation.reports.row_tables import shorten_rows, show_not_run, show_rows
from ablation.reports.side_by_side import (
    Pair,
    describe_pair,
    pair_sections,
    shorten_pair,
    tabulate_pair,
)
from ablation.reports.tables import OTHERS_TITLE, Section, figures
from ablation.sweeps.records import Record
from ablation.system.output import count
from ablation.system.text_tables import cut_apart
from data_utils import Corpus

TITLE = "Which choices matter when a GPT is finetuned as a classifier?"
DEMO = "The demo's messages are synthetic, so its figures mean nothing."
FOLDS = (
    "Each text was tested once with each seed, in its fold; p is the largest of three t-tests: "
    "over folds, over texts, and over folds and seeds. With one seed, luck that it brings to all "
    "folds cannot be seen; two show it (docs/statistics.md)."
)


class Gallery:
    """The pictures of a page, numbered in the order in which they are drawn."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []

    def add(self, picture: Picture | None) -> Picture | None:
        """A picture with the name of its file; none if there is nothing to show."""
        if picture is None:
            return None
        name = f"{len(self.pictures) + 1:02d}-{picture.name}.svg"
        self.pictures.append(replace(picture, name=name))
        return self.pictures[-1]


def report_values(material: Material, gallery: Gallery) -> dict[str, Any]:
    """What enters the template :data:`pages.REPORT`; its pictures are added to ``gallery``."""
    records, baseline = material.records, material.baseline
    incomplete = [record for record in records if not record.is_complete]
    run = [section for section in material.sections if section.configurations]
    blocks = pair_sections(run)
    changes = [x for block in blocks if isinstance(block, Pair) for x in describe_pair(block)]
    found = [compare_rows(section) for section in run]
    # On one's own data, nothing is as published. Runs that failed do not choose the data.
    first = min(records, key=lambda record: not record.is_complete).config
    named = name_parts(run, material.others)
    names = cut_apart(material.corpus.class_names, LONGEST)
    corpus = replace(material.corpus, class_names=(*names,))
    ends = describe_ends(len(records) - len(incomplete), len(incomplete))
    points = [pictures.Point(one.part, one.published, one.name) for one in named]
    return {
        "title": TITLE,
        "answers": [
            *[DEMO] * first.demo,
            *describe_common(named),
            *changes,
            *describe_findings(run, is_more=bool(changes)),
            *warn_of_single_runs(named),
            *([describe_best(named), describe_baseline(baseline, named)] if named else []),
            ends,
        ],
        "next": suggest_runs([*zip(run, found, strict=True)], incomplete, material.output_dir)
        or [suggest_seeds(part, material.output_dir) for part in material.others[:1]],
        "overview": gallery.add(pictures.accuracy(points, 100 * baseline.mean())),
        "blocks": [_block_values(block, baseline, gallery) for block in blocks],
        "not_run": [
            {"title": section.title, "table": show_not_run(section)}
            for section in material.sections
            if section.is_published and not section.configurations and not first.dataset
        ],
        "known": _what_is_known(records),
        "n_complete": len(records) - len(incomplete),
        "made_of": count(len(records) - len(incomplete), "complete run"),
        "n_incomplete": len(incomplete),
        "plans": [
            plan
            for section, some in zip(run, found, strict=True)
            if (plan := plan_section(section, some))
        ],
        "others_title": OTHERS_TITLE,
        "others": pd.DataFrame(
            {"command": part.flags, **figures(part)} for part in material.others
        ),
        "seeds_for_a_verdict": SEEDS_FOR_A_VERDICT,
        "map": _map_of(named, corpus, gallery),
        "explanations": [
            {"title": section.title, "found": explained}
            for section, some in zip(run, found, strict=True)
            if (explained := explain_difference(some, section, material.corpus))
        ],
        "hardest": tabulate_hardest(named, corpus),
        "ends": ends,
        "incomplete": pd.DataFrame(
            {"command": record.result["command"], "error": record.result["error"]}
            for record in incomplete
        ),
        **_class_values(named, gallery),
        "n_test": len(baseline),
        "n_copies": {name: int(which.sum()) for name, which in material.copies.items()},
        "without_copies": tabulate_copies(named, baseline, material.copies),
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


def _block_values(block: Section | Pair, baseline: np.ndarray, gallery: Gallery) -> dict[str, Any]:
    """A section, or two that stand side by side."""
    values: dict[str, Any] = {"title": block.title, "pair": None, "picture": None}
    if isinstance(block, Section):
        sections, values["short"] = [block], shorten_rows(block, compare_rows(block))
    else:
        sections, values["short"] = [block.first, block.second], shorten_pair(block)
        values["pair"] = tabulate_pair(block)
        pairs = [
            tuple(pictures.Point(part, None, a.name) for part in (a, b)) for _, a, b in block.rows
        ]
        values["picture"] = gallery.add(pictures.side_by_side(pairs, block.labels))
    values["sections"] = [_section_values(section, baseline, gallery) for section in sections]
    return values


def _section_values(section: Section, baseline: np.ndarray, gallery: Gallery) -> dict[str, Any]:
    parts, findings = [*section.configurations.values()], compare_rows(section)
    values = {
        "title": section.title,
        "table": show_rows(section, findings, baseline),
        "not_run": show_not_run(section),
        "not_run_words": f"{count(len(section.table.rows) - len(parts), 'row')} not run",
        "findings": tabulate_findings(findings),
        "findings_words": f"{count(len(findings), 'comparison')}, with intervals and p-values",
        "smallest": _describe_smallest(section, findings),
        **answer_options(section),
    }
    points = [pictures.Point(part, None, part.name) for part in parts]
    drawn = [pictures.minutes(points), pictures.learning(points)]
    return {
        **values,
        "pictures": [added for picture in drawn if (added := gallery.add(picture))],
    }


def _describe_smallest(section: Section, findings: Sequence[Finding]) -> str:
    """How little can be told apart."""
    if section.fold is not None:
        return FOLDS
    if not findings:
        return ""
    n = findings[0].difference.n_messages
    if not any(finding.difference.is_of_runs for finding in findings):
        return ""
    return " ".join(dict.fromkeys(describe_smallest(n, k) for k in (1, len(findings))))


def _map_of(named: Sequence[Named], corpus: Corpus, gallery: Gallery) -> MessageMap | None:
    found = build_map([one.part for one in named], [one.name for one in named], corpus)
    return found and replace(found, picture=gallery.add(found.picture))


def _class_values(named: Sequence[Named], gallery: Gallery) -> dict[str, Any]:
    """Figures by class, of one's own data: of the messages, all classes are of one size, and old
    records say nothing of them."""
    own = [
        (one, ClassFigures([record.result["test"] for record in one.part.records]))
        for one in named
        if one.part.records[0].config.dataset
    ]
    return {
        "class_summary": pd.DataFrame(
            {"what": one.title, **classes.summary()} for one, classes in own
        ).fillna(""),
        "classes": [
            {
                "title": one.title,
                "confused": classes.confusions(),
                "table": classes.table(),
                "picture": gallery.add(
                    pictures.confusion_matrix(classes.class_names, classes.confusion)
                ),
            }
            for one, classes in own
        ],
    }
