"""docs/sample-report.html: the report on results/, without the messages themselves.

    python docs/sample.py DATA_DIR

needs the messages (in DATA_DIR, as the script downloads them to data/), because the SVM is fitted
on them and copies are counted; but no text of them enters the page: each is named by the line that
it has in its file. A test fails when the page is stale.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.config.kept_tables import known_tables
from ablation.config.rows import SOURCE
from ablation.reports.contents import Gallery, report_values
from ablation.reports.material import read_material
from ablation.reports.pages import REPORT, render_html
from ablation.system.version import PROJECT
from data_utils import Corpus

SAMPLE = PROJECT / "docs" / "sample-report.html"


def sample_report(data_dir: Path) -> str:
    """The page. Raises ``DataError`` if the messages are missing or damaged."""
    results = PROJECT / "results"
    material = read_material(results, data_dir, tables=known_tables(results, SOURCE))
    shown = replace(material, output_dir=Path(results.name), corpus=name_lines(material.corpus))
    return render_html(REPORT, report_values(shown, Gallery()))


def name_lines(corpus: Corpus) -> Corpus:
    """A corpus with the number of its line in place of each text."""
    parts = corpus.parts.map(
        lambda part: part.assign(Text=[f"(line {line} of the file)" for line in part["Line"]])
    )
    return replace(corpus, parts=parts)


if __name__ == "__main__":
    SAMPLE.write_text(sample_report(Path(sys.argv[1])))
