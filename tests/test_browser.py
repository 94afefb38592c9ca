"""Reports in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as look
import pytest
from pages_to_look_at import PAGES

from ablation.reports.pages import render_html

pytestmark = pytest.mark.browser


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in PAGES]
)
def report(
    request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[look.Opened]:
    """Each of the reports, open; at the end, nothing has happened that should not have."""
    folder = tmp_path_factory.mktemp("pages") / request.param
    PAGES[request.param](folder)
    with look.opened(browser, folder / "report.html") as opened:
        yield opened
        assert opened.troubles == []
        assert opened.page.title() == opened.title, "no script of a data set has run"


def test_nothing_has_to_be_scrolled_sideways(report: look.Opened) -> None:
    look.check_widths(report.page)
    look.check_folded(report.page)
    look.check_widths(report.page)


def test_everyone_can_use_it(report: look.Opened) -> None:
    look.check_accessibility(report.page)


def test_the_map_answers(report: look.Opened) -> None:
    is_there = report.page.locator(".message-map").count()
    assert bool(is_there) == ("one_row" not in report.page.url)
    if is_there:
        look.check_map(report.page)


def test_it_can_be_printed(report: look.Opened) -> None:
    look.check_print(report.page)


# ---------------------------------------------------------------- tables

ACCURACIES = ["95.33 ± 1.53", "", "9.5", "not run", "-2", "100.00", "1,024"]
CONTENTS = """
{{ heading(title, level=1) }}
<table class="sortable"><thead><tr><th>row</th><th>test %</th><th>key</th>
<th data-nosort>command</th></tr></thead>
{% for name, accuracy, key in lines %}
<tbody><tr><td>{{ name }}</td><td>{{ accuracy }}</td><td data-value="{{ key }}">x</td>
<td>python</td></tr><tr><td colspan="4">details of {{ name }}</td></tr></tbody>
{% endfor %}
</table>
<table class="sortable"><thead><tr><th>few</th></tr></thead><tbody><tr><td>1</td></tr></tbody>
</table>
"""


@pytest.fixture
def tables(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A page with a table of seven rows, a to g, and one of a single row."""
    keys = [3, 1, 2, 7, 6, 5, 4]
    values = {"title": "Tables", "lines": zip("abcdefg", ACCURACIES, keys, strict=True)}
    (tmp_path / "page.html").write_text(render_html(CONTENTS, values))
    with look.opened(browser, tmp_path / "page.html") as opened:
        yield opened.page
        assert opened.troubles == []


def order_of(page: Any) -> str:
    cells = page.locator("table").first.locator("tbody:visible tr:first-child td:first-child")
    return "".join(cells.all_text_contents())


def test_tables_are_sorted(tables: Any) -> None:
    table = tables.locator("table").first
    assert order_of(tables) == "abcdefg"
    accuracy = table.get_by_role("button", name="test %")
    accuracy.click()
    assert order_of(tables) == "ecafgdb", "numbers, texts, nothing"
    accuracy.press("Enter")
    assert order_of(tables) == "dgface" + "b", "what is empty stays last"
    head = table.get_by_role("columnheader")
    states = [head.nth(i).get_attribute("aria-sort") for i in range(4)]
    assert states == [None, "descending", None, None]
    table.get_by_role("button", name="key").click()
    assert order_of(tables) == "bcagfed", "by data-value"
    assert head.nth(1).get_attribute("aria-sort") is None
    assert table.get_by_role("button", name="command").count() == 0
    details = table.locator("tbody tr:nth-child(2)").all_text_contents()
    assert details == [f"details of {name}" for name in "bcagfed"], "they move with their row"


def test_tables_are_filtered(tables: Any) -> None:
    (field,) = tables.get_by_role("searchbox").all()  # one row needs none
    assert tables.get_by_label("Only rows with").count() == 1
    field.fill("of RUN")
    assert order_of(tables) == "d"
    assert tables.get_by_role("status").first.text_content() == "1 of 7 rows"
    field.fill("")
    assert order_of(tables) == "abcdefg"
    assert tables.get_by_role("status").first.text_content() == "7 of 7 rows"


def test_tables_are_for_everyone(tables: Any) -> None:
    look.check_widths(tables)
    look.check_accessibility(tables)


def test_the_page_is_read_without_its_script(browser: Any, tmp_path: Path) -> None:
    values = {"title": "Tables", "lines": [("a", "1", 1)] * 7}
    (tmp_path / "page.html").write_text(render_html(CONTENTS, values))
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.get_by_role("button").count() == 0
    assert page.get_by_text("details of a").count() == 7
    context.close()
