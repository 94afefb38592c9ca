"""docs/sample-report.html: the report on results/, without the messages themselves.

    python docs/sample.py DATA_DIR

needs the messages (in DATA_DIR, as the script downloads them to data/), because the SVM is fitted
on them and copies are counted; but no text of them enters the page: each is named by the line that
it has in its file. A test fails when the page is stale.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.config.kept_tables import known_tables
from ablation.config.rows import SOURCE
from ablation.reports.contents import Gallery, report_values
from ablation.reports.material import read_material
from ablation.reports.pages import REPORT, render_html
from ablation.system.version import PROJECT
from data_utils import Corpus

SAMPLE = PROJECT / "docs" / "sample-report.html"


def sample_report(data_dir: Path, folder: str = "results") -> str:
    """The page on the records in a folder of the project. Raises ``DataError`` if the messages are
    missing or damaged."""
    records = PROJECT / folder
    material = read_material(records, data_dir, tables=known_tables(records, SOURCE))
    shown = replace(material, output_dir=Path(folder), corpus=name_lines(material.corpus))
    return render_html(REPORT, report_values(shown, Gallery()))


def name_lines(corpus: Corpus) -> Corpus:
    """A corpus with the number of its line in place of each text."""
    parts = corpus.parts.map(
        lambda part: part.assign(Text=[f"(line {line} of the file)" for line in part["Line"]])
    )
    return replace(corpus, parts=parts)


# ---------------------------------------------------------------- pictures of it


def photograph(pages: dict[str, Path], folder: Path) -> None:
    """Take the pictures of docs/report.md, of reports by their names, in Chromium."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def look(report: str, width: int, height: int) -> Any:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(pages[report].resolve().as_uri())
            return page

        def take(name: str, page: Any, selector: str, height: int) -> None:
            """From a place on, so many pixels."""
            box = page.locator(selector).first.bounding_box()
            page.set_viewport_size({**page.viewport_size, "height": int(box["y"]) + height})
            clip = {"x": 0, "y": box["y"] - 8, "width": page.viewport_size["width"]}
            page.screenshot(path=folder / f"{name}.png", clip={**clip, "height": height})

        folder.mkdir(exist_ok=True)
        page = look("sample", 1240, 720)
        take("answers", page, "h1", 640)
        page.locator("summary:text-matches('row 2$')").click()
        take("rows", page, "#tables-2", 460)
        page = look("sample", 1240, 720)
        page.locator("summary:text('18 rows not run')").click()
        take("not-run", page, "#tables summary:text('18 rows not run')", 620)
        page.locator("summary:text('10 comparisons')").click()
        take("comparisons", page, "summary:text('10 comparisons')", 560)
        page = look("sample", 1240, 720)
        page.locator(".map-controls input").fill("20")
        take("message", page, "#messages", 800)
        take("phone", look("sample", 390, 844), "h1", 1500)
        take("side-by-side", look("lesson", 1240, 720), "#tables", 420)
        browser.close()


if __name__ == "__main__":
    data = Path(sys.argv[1])
    SAMPLE.write_text(sample_report(data, "results"))
    with TemporaryDirectory() as folder:
        lesson = Path(folder) / "lesson.html"
        lesson.write_text(sample_report(data, "docs/lesson"))
        photograph({"sample": SAMPLE, "lesson": lesson}, PROJECT / "docs" / "report")
