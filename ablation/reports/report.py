"""The report on the records of a folder: one page, as HTML and as Markdown, and its tables in
short."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ablation.config.identity import identify_data
from ablation.data.corpora import load_corpus
from ablation.reports.pages import PICTURES_NAME, Block, Picture, render_html, render_markdown
from ablation.reports.report_page import OTHERS_TITLE, ReportData, compose, tabulate_others
from ablation.reports.tables import group_records, require_one_dataset, tabulate
from ablation.sweeps.records import Record, read_records, require_one_base
from ablation.system.errors import RecordError
from ablation.system.files import write_atomically
from ablation.system.output import printable
from ablation.system.text_tables import align_wrapped, fill
from data_utils import PARTS, Corpus, Splits

logger = logging.getLogger("experiments")

SHORT_COLUMNS = [
    *("row", "n", "train %", "val %", "test %", "95 % interval", "min"),
    *("flags", "command"),  # tables have one of these
]


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
    corpus = _corpus_of(records, data_dir, offline)
    records = [record for record in records if _fits(record, corpus)]
    if not records:
        raise RecordError(f"--output_dir {output_dir} holds no record that fits its data.")
    sections, others = group_records([record for record in records if record.is_complete])
    data = ReportData(records, sections, others, corpus)
    _write_page(compose(data), output_dir)
    return "\n\n".join([*_shorten(data), f"Report: {printable(str(output_dir / 'report.html'))}"])


def _corpus_of(records: Sequence[Record], data_dir: Path, offline: bool) -> Corpus:
    """The texts that the runs were made on."""
    complete = [record for record in records if record.is_complete]
    config = replace((complete or records)[0].config, data_dir=str(data_dir), offline=offline)
    corpus = load_corpus(config)
    if complete and complete[0].result["data"] != identify_data(corpus):
        raise RecordError(
            f"The texts in {config.dataset or data_dir}, as this version splits them, are not "
            "those that the runs were made on. "
            + ("Put the old file back." if config.dataset else "Name their folder with --data_dir.")
        )
    return corpus


def _fits(record: Record, corpus: Corpus) -> bool:
    """Whether a record's texts and classes are those of the corpus; if not, it is damaged, and
    named."""
    if not record.is_complete:
        return True
    sizes = corpus.parts.map(len)
    # For training, a batch that is not full is left out.
    sizes = replace(sizes, train=sizes.train - sizes.train % record.config.batch_size)
    classes = record.result.get("test", {}).get("classes")
    fits = (
        Splits(*PARTS).map(lambda part: record.accuracy(part).total) == sizes
        and record.predictions["label"].tolist() == corpus.parts.test["Label"].tolist()
        and (classes is None or [part["label"] for part in classes] == list(corpus.class_names))
    )
    if not fits:
        logger.warning(
            "Skipped: the record %s is damaged (its texts or classes are not those of the data); "
            "run it again, or delete it",
            record.folder,
        )
    return fits


def _shorten(data: ReportData) -> list[str]:
    """The tables that are printed, each under the heading that it has on the page."""
    short = [
        (section.title, tabulate(section).query("n != ''"))
        for section in data.sections
        if section.configurations
    ]
    if data.others:
        short.append((OTHERS_TITLE, tabulate_others(data.others)))
    return [
        f"{fill(title)}\n{align_wrapped(table.filter(SHORT_COLUMNS))}" for title, table in short
    ]


def _write_page(blocks: Sequence[Block], output_dir: Path) -> None:
    """Write the page in its two forms, and its pictures."""
    pictures = {block.name: block.svg for block in blocks if isinstance(block, Picture)}
    try:
        (output_dir / PICTURES_NAME).mkdir(exist_ok=True)
        for name, svg in pictures.items():
            write_atomically(output_dir / PICTURES_NAME / name, svg)
        write_atomically(output_dir / "report.md", render_markdown(blocks).encode())
        write_atomically(output_dir / "report.html", render_html(blocks).encode())
    except OSError as error:
        raise RecordError(f"The report cannot be written to {output_dir}: {error}") from error
