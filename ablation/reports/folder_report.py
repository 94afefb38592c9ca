"""The report on the records of a folder: one page, as HTML and as Markdown, and its tables in
short."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablation.config.rows import SOURCE
from ablation.config.tables import Table
from ablation.reports.contents import Gallery, report_values
from ablation.reports.material import read_material
from ablation.reports.pages import PICTURES_NAME, REPORT, render_html, render_markdown
from ablation.reports.tables import OTHERS_TITLE, Section
from ablation.system.errors import RecordError
from ablation.system.files import write_atomically
from ablation.system.output import printable
from ablation.system.text_tables import align_wrapped, fill


class Summary(NamedTuple):
    """What a report says in short, to be printed, and its sections."""

    text: str
    sections: list[Section]


def write_report(
    output_dir: Path,
    data_dir: Path,
    offline: bool = False,
    tables: Sequence[Table] = (SOURCE,),
    asked: tuple[Table, dict[str, Any]] | None = None,
) -> Summary:
    """Write ``report.md`` and ``report.html`` on all records of a folder, by the rows of tables.

    The arguments are those of :func:`read_material`.

    Raises:
        RecordError: there are no records, they do not belong together, or the report cannot be
            written.
        DataError: the texts are missing or damaged.
    """
    material, gallery = read_material(output_dir, data_dir, offline, tables, asked), Gallery()
    values = report_values(material, gallery)
    try:
        (output_dir / PICTURES_NAME).mkdir(exist_ok=True)
        for picture in gallery.pictures:
            write_atomically(output_dir / PICTURES_NAME / picture.name, picture.wide)
        write_atomically(output_dir / "report.md", render_markdown(REPORT, values).encode())
        write_atomically(output_dir / "report.html", render_html(REPORT, values).encode())
    except OSError as error:
        raise RecordError(
            f"The report cannot be written to {output_dir} ({error}). Make room there, or move "
            "what is in its way."
        ) from error
    return Summary(_shorten(values, output_dir), material.sections)


def _shorten(values: dict[str, Any], output_dir: Path) -> str:
    """The tables and sentences of a page, for a terminal."""
    tables = [(block["title"], block["short"]) for block in values["blocks"]]
    if len(values["others"]):
        tables.append((OTHERS_TITLE, values["others"]))
    return "\n\n".join(
        [
            *(f"{fill(title)}\n{align_wrapped(table)}" for title, table in tables),
            "\n".join(fill(printable(sentence)) for sentence in values["answers"]),
            f"Report: {printable(str(output_dir / 'report.html'))}",
        ]
    )
