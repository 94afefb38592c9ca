"""A page from its templates, as HTML and as Markdown.

A page's contents are one template, which calls macros for headings, tables and pictures; each form
has its own. What enters them are plain texts, wherever they come from: every value is made visible
and escaped, in HTML by Jinja's autoescape, in Markdown by :func:`escape_markdown`.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablation.system.output import printable

TEMPLATES = Path(__file__).resolve().parent / "templates"
REPORT = (TEMPLATES / "contents.txt").read_text()
SCRIPT = (TEMPLATES / "report.js").read_text()  # which a page may run, and nothing else
PICTURES_NAME = "report_pictures"
COMMANDS = ("flags", "command")  # columns of tables that are shown as code


@dataclass(frozen=True)
class Picture:
    """What is shown, in words and as SVG, for a wide page and for a phone. ``name`` is that of its
    file, unique on the page; Markdown has the wide one."""

    name: str
    description: str
    wide: bytes
    narrow: bytes


def render_html(contents: str, values: dict[str, Any]) -> str:
    """The page as one HTML file that needs nothing from elsewhere, and may load nothing.

    Args:
        contents: a template, as :data:`REPORT` is one.
        values: what enters it; tables are data frames of texts.
    """
    return _render("report.html", lambda text: text, contents, values)


def render_part(contents: str, values: dict[str, Any]) -> str:
    """HTML without a page around it, as a notebook shows it."""
    return _render("part.html", lambda text: text, contents, values)


def render_markdown(contents: str, values: dict[str, Any]) -> str:
    """The page as Markdown, its pictures in files of their names under ``PICTURES_NAME``."""
    page = _render("report.md", lambda text: Markup(escape_markdown(text)), contents, values)
    return re.sub(r"\n{3,}", "\n\n", page)


def _render(form: str, escape: Callable[[str], str], contents: str, values: dict[str, Any]) -> str:
    def finalize(value: Any) -> Any:
        # Markup is what a template's own macros made, or a name of ours.
        return value if isinstance(value, Markup) else escape(visible(value))

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = lambda text: Markup(code_markdown(visible(text)))
    environment.filters["number"] = leading_number
    environment.filters["data_address"] = lambda svg: (
        f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    )
    return environment.get_template(form).render(
        contents=environment.from_string(contents),
        commands=COMMANDS,
        folder=Markup(PICTURES_NAME),
        script=Markup(SCRIPT),
        script_sha256=Markup(base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()),
        **values,
    )


def visible(value: Any) -> str:
    """A value on one line, with signs for what would not be seen."""
    return printable(re.sub(r"[\n\r\t]+", " ", str(value)))


def leading_number(text: str) -> str | None:
    """The number that a text begins with, by which a column is sorted; none if there is none."""
    found = re.match(r"[+-]?\d+(\.\d+)?(?![\w.-])", text)
    return found and found[0]


def escape_markdown(text: str) -> str:
    """A text as it is, anywhere in Markdown and in HTML: none of its signs means anything."""
    return re.sub(r"[\\`*_{}\[\]<>#$|~&]", lambda found: f"&#{ord(found[0])};", text)


def code_markdown(text: str) -> str:
    """The same as code, which in backticks cannot hold every sign."""
    if re.search(r"[\\`|<>&]|^\s*$", text):
        return f"<code>{escape_markdown(text)}</code>"
    return f"`{text}`"


def markdown_table(frame: pd.DataFrame) -> str:
    """A table of texts alone, as Markdown."""
    return render_markdown("{{ table(frame) }}", {"frame": frame}).strip()
