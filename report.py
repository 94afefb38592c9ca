"""The report on the records of a folder: one page, as Markdown and as HTML."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import markdown
import numpy as np
import pandas as pd

import pictures
from baseline import classify_by_characters, find_copies
from comparisons import ALPHA, accuracy_interval, smallest_difference
from data_utils import Corpus, Splits
from errors import RecordError
from experiment import describe_data, load_corpus
from experiment_rows import ROWS
from files import write_atomically
from metrics import tabulate_classes
from output import printable
from run_records import RESULT_NAME, Record, read_record, read_records
from tables import (
    Configuration,
    Section,
    compare_two,
    figures,
    find_differences,
    group_records,
    require_one_dataset,
    tabulate,
    tabulate_findings,
    to_markdown,
)

PICTURES_NAME = "report_pictures"
N_HARDEST = 10
NO_BREAK = "\N{NO-BREAK SPACE}"
SHORT_COLUMNS = ["row", "flags", "n", "train %", "val %", "test %", "95 % interval", "min"]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1, h2, h3 {{ line-height: 1.2; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid #ddd; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e4e4e4; }}
th {{ border-bottom: 2px solid #999; white-space: nowrap; }}
td {{ min-width: 2.5rem; }}
td:has(code), td:nth-child(9):last-child {{ min-width: 11rem; }}
p {{ overflow-wrap: anywhere; }}
code {{ background: #f3f3f3; padding: 0 0.2em; }}
img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(output_dir: Path, data_dir: Path, offline: bool = False) -> str:
    """Write ``report.md`` and ``report.html`` on all records of a folder.

    Args:
        data_dir: of the messages, which the baseline and the audit read.
        offline: they are not downloaded to it.

    Returns:
        What to print: the tables in short, and where the report is.

    Raises:
        RecordError: there are no records, they do not belong together, or the report cannot be
            written.
        DataError: the messages cannot be had.
    """
    records = read_records(output_dir)
    if not records:
        raise RecordError(
            f"--output_dir {output_dir} holds no records of runs. Run something first, or name "
            "another folder."
        )
    require_one_dataset([record for record in records if record.is_complete])
    sections, others = group_records([record for record in records if record.is_complete])
    corpus = _corpus_of(records, data_dir, offline)
    page = _Page()
    _introduce(page, records)
    baseline = classify_by_characters(corpus.parts)
    own = bool(records[0].config.dataset)
    for section in sections:
        if section.configurations or not own:  # on one's own data, nothing is as published
            _add_section(page, section, baseline, corpus)
    _add_others(page, others)
    if own:  # the others' classes are of one size
        _add_classes(page, sections, others)
    _add_audit(page, sections, others, baseline, corpus.parts)
    _add_incomplete(page, records)
    _explain(page)
    _write_page(page, output_dir)
    short = [
        tabulate(section).query("n != ''").filter(SHORT_COLUMNS).to_string(index=False)
        for section in sections
        if section.configurations
    ]
    return "\n\n".join([*short, f"Report: {printable(str(output_dir / 'report.html'))}"])


def compare_runs(a: str, b: str, output_dir: Path) -> str:
    """The comparison of two runs, each named by its folder, which may lie in ``output_dir``.

    Raises:
        RecordError: a record is not there, is damaged or failed, or the two do not compare.
    """
    folders = (
        Path(name) if (Path(name) / RESULT_NAME).exists() else output_dir / name for name in (a, b)
    )
    return compare_two(*map(read_record, folders))


def _corpus_of(records: Sequence[Record], data_dir: Path, offline: bool) -> Corpus:
    """The texts that the runs were made on."""
    complete = [record for record in records if record.is_complete]
    config = replace((complete or records)[0].config, data_dir=str(data_dir), offline=offline)
    corpus = load_corpus(config)
    if complete and complete[0].result["data"] != describe_data(corpus):
        raise RecordError(
            f"The texts in {config.dataset or data_dir}, as this version splits them, are not "
            "those that the runs were made on. "
            + ("Put the old file back." if config.dataset else "Name their folder with --data_dir.")
        )
    return corpus


# ---------------------------------------------------------------- the parts of the page


class _Page:
    """Markdown, part by part, and the pictures that it shows."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.pictures: dict[str, bytes] = {}

    def add(self, *paragraphs: str) -> None:
        self.parts.extend(paragraphs)

    def add_table(self, table: pd.DataFrame) -> None:
        # What is short is easier to read unbroken.
        table = table.map(lambda text: text.replace(" ", NO_BREAK) if len(text) < 24 else text)
        table = table.map(lambda text: text.replace("< ", f"<{NO_BREAK}"))
        self.add(to_markdown(table))

    def add_picture(self, name: str, description: str, picture: bytes) -> None:
        name = f"{len(self.pictures) + 1:02d}-{name}.svg"
        self.pictures[name] = picture
        self.add(f"![{description}]({PICTURES_NAME}/{name})")


def _introduce(page: _Page, records: Sequence[Record]) -> None:
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
    page.add(
        "# Which choices matter when a GPT is finetuned as a classifier?",
        f"{len(complete)} complete runs and {len(records) - len(complete)} that failed or were "
        "interrupted. "
        f"Data: {every('data', 'name')}. Device: {_escape(every('device', 'name'))} "
        f"({every('device', 'threads')} threads). PyTorch {every('versions', 'torch')}. "
        f"Commit: {commits}.",
    )


def _add_section(
    page: _Page, section: Section, baseline: Splits[np.ndarray], corpus: Corpus
) -> None:
    page.add(f"## {section.title}")
    if not section.configurations:
        page.add("None of them was run as published.")
        page.add_table(tabulate(section))
        return
    page.add_table(tabulate(section, baseline))
    _add_findings(page, section)
    configurations = list(section.configurations.values())
    points = [_point(number, part) for number, part in section.configurations.items()]
    if section.overrides:
        points = [replace(point, published=None) for point in points]
    page.add("### Pictures")
    page.add_picture("accuracy", "Test accuracy by row", pictures.accuracy_by_row(points))
    page.add_picture(
        "minutes", "Test accuracy against minutes", pictures.accuracy_by_minutes(points)
    )
    curves = {part.label: [_curve(record) for record in part.records] for part in configurations}
    page.add_picture("learning", "Losses by step and row", pictures.learning_curves(curves))
    wrong = np.stack([1 - part.correct.mean(axis=0) for part in configurations])
    if wrong.any():
        labels = [part.label for part in configurations]
        page.add_picture("errors", "Messages wrong by row", pictures.error_map(labels, wrong))
        _add_hardest(page, wrong, corpus)


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


def _add_findings(page: _Page, section: Section) -> None:
    findings = find_differences(section)
    if not findings:
        return
    n = findings[0].difference.n_messages
    single, first = smallest_difference(), smallest_difference(ALPHA / len(findings))
    page.add(
        "### What the rows were made to find out",
        f"The difference is the second row's test accuracy minus the first's, in points. With {n} "
        f"test messages, two single runs that differ by fewer than {single} messages "
        f"({100 * single / n:.2f} points) are never distinguishable, and by fewer than {first} "
        f"({100 * first / n:.2f} points) not as the first of {len(findings)} corrected ones.",
    )
    page.add_table(tabulate_findings(findings))


def _add_hardest(page: _Page, wrong: np.ndarray, corpus: Corpus) -> None:
    mean = wrong.mean(axis=0)
    hardest = [i for i in np.argsort(-mean, kind="stable")[:N_HARDEST] if mean[i] > 0]
    texts, classes = corpus.parts.test["Text"].tolist(), corpus.parts.test["Label"].tolist()
    page.add("### The hardest messages")
    page.add_table(
        pd.DataFrame(
            {
                "message": str(i),
                "wrong": f"{100 * mean[i]:.0f} %",
                "is": _escape(corpus.labels[classes[i]]),
                "text": _escape(texts[i]),
            }
            for i in hardest
        )
    )


def _add_others(page: _Page, others: Sequence[Configuration]) -> None:
    if others:
        page.add("## Other configurations")
        page.add_table(
            pd.DataFrame({"command": f"`{part.flags}`", **figures(part)} for part in others)
        )


def _add_classes(page: _Page, sections: Sequence[Section], others: Sequence[Configuration]) -> None:
    named = {
        f"{part.label} `{part.flags}`".strip(): [record.result["test"] for record in part.records]
        for part in (
            *(part for section in sections for part in section.configurations.values()),
            *others,
        )
    }
    page.add("## By class", "Of the test texts, in %, the mean over seeds:")
    page.add_table(tabulate_classes(named).rename(columns=_escape))


def _add_audit(
    page: _Page,
    sections: Sequence[Section],
    others: Sequence[Configuration],
    baseline: Splits[np.ndarray],
    messages: Splits[pd.DataFrame],
) -> None:
    copies = find_copies(messages)
    n = len(messages.test)
    page.add(
        "## Test messages that stand in the training part",
        f"Of {n} test messages, {copies['verbatim'].sum()} stand in the training part word for "
        f"word, and {copies['letters'].sum()} when only lowercased letters are compared. Mean test "
        "accuracy in %, on all and without them:",
    )
    named = [
        (
            part.label if not section.overrides else f"{part.label}, variant",
            part.flags,
            part.correct,
        )
        for section in sections
        for part in section.configurations.values()
    ]
    named += [("", f"{part.flags}", part.correct) for part in others]
    named.append(("", "characters, linear SVM (baseline)", baseline.test[None]))
    kept = {
        f"all {n}": np.ones(n, dtype=bool),
        f"without verbatim copies ({(~copies['verbatim']).sum()})": ~copies["verbatim"],
        f"without equal letters ({(~copies['letters']).sum()})": ~copies["letters"],
    }
    page.add_table(
        pd.DataFrame(
            {"row": row, "flags": f"`{flags}`" if "SVM" not in flags else flags}
            | {
                name: f"{100 * correct[:, mask].mean():.2f}" if mask.any() else "none left"
                for name, mask in kept.items()
            }
            for row, flags, correct in named
        )
    )


def _add_incomplete(page: _Page, records: Sequence[Record]) -> None:
    incomplete = [record for record in records if not record.is_complete]
    if incomplete:
        page.add("## Runs that failed or were interrupted")
        page.add_table(
            pd.DataFrame(
                {
                    "run": f"`{record.result['command']}`",
                    "error": _escape(str(record.result["error"])),
                }
                for record in incomplete
            )
        )


def _explain(page: _Page) -> None:
    page.add(
        "## How to read it",
        "- **n** is the number of seeds; accuracies are their mean ± their standard deviation.\n"
        "- **95 % interval**, of a test accuracy: the wider, on each side, of Clopper and "
        "Pearson's exact interval for so many messages and a bootstrap over seeds and messages. "
        "Of a difference: that bootstrap.\n"
        "- **min**: training and the hidden states of all runs that share them with it: one that "
        "needs few of them (rows 2, 14, 15, 16) is faster alone.\n"
        "- **trained**: parameters.\n"
        "- **published %**: train / validation / test.\n"
        "- **verdict**: Fisher's exact test of the run with seed 123 (or the lowest) against the "
        "published counts, corrected (Holm) for the three parts. *Impossible* is a figure that no "
        "count of messages rounds to. Variants of a row are not compared with what was published.\n"
        "- **p**: of one seed the exact McNemar test on the same test messages, of several Welch's "
        "test on the variance over seeds and that over messages. It decides, not the interval, "
        "which a few seeds or a few differing messages make too narrow; two seeds are too few for "
        "both. **Holm** corrects for the "
        "number of comparisons in the table.\n"
        "- **finding**: *supported* and *contradicted* refer to the direction in which the "
        "published figures differ, at a corrected p below 0.05. Variants of rows have only their "
        "own direction.",
    )


# ---------------------------------------------------------------- files


def _write_page(page: _Page, output_dir: Path) -> None:
    text = "\n\n".join(page.parts) + "\n"
    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="wide"><table>')
    body = body.replace("</table>", "</table></div>")
    for name, picture in page.pictures.items():
        data = base64.b64encode(picture).decode()
        body = body.replace(f"{PICTURES_NAME}/{name}", f"data:image/svg+xml;base64,{data}")
    title = page.parts[0].lstrip("# ")
    try:
        (output_dir / PICTURES_NAME).mkdir(exist_ok=True)
        for name, picture in page.pictures.items():
            write_atomically(output_dir / PICTURES_NAME / name, picture)
        write_atomically(output_dir / "report.md", text.encode())
        write_atomically(output_dir / "report.html", PAGE.format(title=title, body=body).encode())
    except OSError as error:
        raise RecordError(f"The report cannot be written to {output_dir}: {error}") from error


def _escape(text: str) -> str:
    """A text as it is, in a cell of a Markdown table and in HTML: no sign of it means anything."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~])", lambda found: f"&#{ord(found[1])};", text)
