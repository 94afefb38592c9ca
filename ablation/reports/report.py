"""The report on the records of a folder: one page, as HTML and as Markdown, and its tables in
short."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablation.config.rows import SOURCE
from ablation.config.tables import Table
from ablation.reports.baseline import classify_by_characters, copied_texts
from ablation.reports.contents import Gallery, report_values
from ablation.reports.pages import PICTURES_NAME, REPORT, render_html, render_markdown
from ablation.reports.pooling import pool_corpora, pool_parts, pool_records
from ablation.reports.tables import (
    OTHERS_TITLE,
    Section,
    group_records,
    require_one_dataset,
    require_same_texts,
)
from ablation.reports.tested_texts import fits, load_corpora
from ablation.sweeps.records import read_records, require_one_base
from ablation.system.errors import RecordError
from ablation.system.files import write_atomically
from ablation.system.output import printable
from ablation.system.text_tables import align_wrapped, fill


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
    baseline = pool_parts([classify_by_characters(part.parts) for part in tested]).test
    found = [copied_texts(part.parts) for part in tested]
    copies = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    gallery, corpus = Gallery(), pool_corpora(tested)
    values = report_values(records, sections, others, corpus, baseline, copies, output_dir, gallery)
    try:
        (output_dir / PICTURES_NAME).mkdir(exist_ok=True)
        for picture in gallery.pictures:
            write_atomically(output_dir / PICTURES_NAME / picture.name, picture.wide)
        write_atomically(output_dir / "report.md", render_markdown(REPORT, values).encode())
        write_atomically(output_dir / "report.html", render_html(REPORT, values).encode())
    except OSError as error:
        raise RecordError(f"The report cannot be written to {output_dir}: {error}") from error
    short = [(block["title"], block["short"]) for block in values["blocks"]]
    short += [(OTHERS_TITLE, values["others"])] * bool(others)
    texts = [f"{fill(title)}\n{align_wrapped(table)}" for title, table in short]
    texts.append("\n".join(fill(printable(sentence)) for sentence in values["answers"]))
    place = f"Report: {printable(str(output_dir / 'report.html'))}"
    return Report("\n\n".join([*texts, place]), sections)
