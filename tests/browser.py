"""Pages in a real browser: Chromium from the system, driven by Playwright. Each check takes a page
that is open, and asserts what a person would look for."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1300, 768, 390)
HEIGHT = 844
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: a container's root has none. The rest keeps it from calling home.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=FLAGS)


@dataclass
class Opened:
    """A page, and what has happened to it that should not have: ``troubles``."""

    page: Any
    title: str = ""
    troubles: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    """A page file in a window of its own, which can be tapped."""
    context = browser.new_context(has_touch=True, viewport={"width": WIDTHS[0], "height": HEIGHT})
    found = Opened(context.new_page())
    note, address = found.troubles.append, path.resolve().as_uri()
    allowed = (address, "data:")
    found.page.on(
        "request",
        lambda request: request.url.startswith(allowed) or note(f"asks for {request.url}"),
    )
    found.page.on(
        "console",  # the policy's refusals are among them
        lambda said: said.type in ("error", "warning") and note(f"console: {said.text}"),
    )
    found.page.on("pageerror", lambda error: note(f"error: {error}"))
    found.page.on("dialog", lambda dialog: (note(f"dialog: {dialog.message}"), dialog.dismiss()))
    found.page.goto(address)
    found.title = found.page.title()
    yield found
    context.close()


def each_look(page: Any) -> Iterator[tuple[int, str]]:
    """The page at each width, light and dark."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            yield width, scheme


def open_all(page: Any) -> int:
    """Open everything that is folded, as a person does; returns how much was."""
    folded = page.locator("details:not([open]) > summary:visible")
    n = 0
    while folded.count():
        folded.first.focus()
        page.keyboard.press("Enter")
        n += 1
    return n


def check_folded(page: Any) -> None:
    """What is folded opens by keyboard, and shows what it holds."""
    open_all(page)
    for details in page.locator("details").all():
        assert details.get_attribute("open") is not None
        inside = details.evaluate(
            "d => [...d.children].slice(1).reduce((sum, c) => sum + c.offsetHeight, 0)"
        )
        assert inside > 0, details.inner_text()[:80]


def check_widths(page: Any) -> None:
    """Nothing has to be scrolled sideways, at any width, except what scrolls by itself."""
    for width, _ in each_look(page):
        needed = page.evaluate("document.documentElement.scrollWidth")
        wide = page.evaluate(
            "[...document.body.querySelectorAll('*')].filter(e => "
            "e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide'))"
            ".slice(0, 5).map(e => e.tagName + ' ' + e.className)"
        )
        assert needed <= width, f"{needed} of {width} px are needed: {wide}"


def check_accessibility(page: Any) -> None:
    """What axe finds: contrast, headings, headers of tables, names of controls, and more; and what
    it leaves to others: the order of headings, alt texts, headers."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for width, scheme in each_look(page):
        if width == WIDTHS[1]:
            continue
        found = axe.run(page).response["violations"]
        said = [
            f"{rule['id']}: {node['html'][:120]} {node['failureSummary'][:160]}"
            for rule in found
            for node in rule["nodes"][:3]
        ]
        assert not said, f"{width} px, {scheme}: " + "\n".join(said)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("table:not(:has(th))").count() == 0


def check_print(page: Any) -> None:
    """It can be printed, and each section begins on a page of its own."""
    n_pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert n_pages >= page.locator("section").count()


def check_map(page: Any) -> None:
    """The map answers to pointer, tap and keys: always with the message that is under them."""
    data = page.evaluate("JSON.parse(document.querySelector('.message-map script').textContent)")
    n, rows = len(data["messages"]), data["rows"]
    part = page.locator(".message-map").first
    strip, panel, status = (part.locator(f".map-{name}") for name in ("strip", "panel", "status"))
    slider = part.get_by_role("slider")

    def check(at: int) -> None:
        message = data["messages"][at]
        label = data["classes"][message["label"]]
        assert f"{at + 1} of {n}: message {message['number']} is {label}." in status.text_content()
        assert panel.locator("blockquote").text_content() == message["text"]
        lines = panel.locator("tbody tr").all()
        assert len(lines) == len(rows)
        cells = lines[-1].locator("td").all_text_contents()
        given, probability, wrong = message["given"][-1]
        expected = [rows[-1], data["classes"][given], f"{probability:.3f}"]
        assert cells == [*expected, f"{wrong} of {data['seeds'][-1]}"]

    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        strip.scroll_into_view_if_needed()
        box = strip.bounding_box()
        picture = part.locator("img").bounding_box()
        assert box["x"] >= picture["x"]
        assert box["x"] + box["width"] <= picture["x"] + picture["width"] + 1
        y = max(box["y"], 0) + 20
        for at in (0, n // 2, n - 1):
            page.mouse.move(box["x"] + box["width"] * (at + 0.5) / n, y)
            check(at)
        page.touchscreen.tap(box["x"] + box["width"] * (n // 3 + 0.5) / n, y)
        check(n // 3)
        page.touchscreen.tap(box["x"] + box["width"] * 0.5 / n, y)
        check(0)
    slider.focus()
    for key, at in (("End", n - 1), ("ArrowLeft", max(n - 2, 0)), ("Home", 0)):
        page.keyboard.press(key)
        check(at)
    assert slider.get_attribute("aria-valuetext") == f"1 of {n}"
    style = slider.evaluate("e => getComputedStyle(e).outlineStyle")
    assert style != "none", "where the keys go is seen"
    part.get_by_role("button", name="Next").click()
    check(min(1, n - 1))
    part.get_by_role("button", name="Previous").click()
    check(0)
