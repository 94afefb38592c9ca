"""A page as data, and the same as HTML and as Markdown.

What a block holds are plain texts, wherever they come from. Each form escapes whatever enters its
template: HTML by Jinja's autoescape, Markdown by :func:`escape_markdown`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablation.system.output import printable

TEMPLATES = Path(__file__).resolve().parent / "templates"
PICTURES_NAME = "report_pictures"


@dataclass(frozen=True)
class Heading:
    """A title; ``level`` 1 is the page's."""

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of texts under their columns' names; ``commands`` are the columns of flags."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    commands: frozenset[str] = frozenset({"flags", "command"})

    @classmethod
    def of(cls, table: pd.DataFrame) -> Table:
        """A table of texts as a block."""
        return cls([*table.columns], table.to_numpy().tolist())


@dataclass(frozen=True)
class Picture:
    """An SVG, and what it shows in words. ``name`` is that of its file, unique on the page."""

    kind: ClassVar[str] = "picture"
    name: str
    description: str
    svg: bytes

    @property
    def data(self) -> str:
        """The picture in an address."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    kind: ClassVar[str] = "terms"
    items: Sequence[tuple[str, str]]


Block = Heading | Paragraph | Table | Picture | Terms


def render_html(blocks: Sequence[Block]) -> str:
    """The page as one HTML file that needs nothing from elsewhere, and may load nothing."""
    return _environment(lambda text: text).get_template("report.html").render(blocks=blocks)


def render_markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown, its pictures in files of their names under ``PICTURES_NAME``."""
    environment = _environment(lambda text: Markup(escape_markdown(text)))
    environment.filters["code"] = lambda text: Markup(code_markdown(_visible(text)))
    template = environment.get_template("report.md")
    return template.render(blocks=blocks, folder=Markup(PICTURES_NAME))


def _environment(escape: Any) -> Environment:
    """Templates to which every value comes visible and escaped."""

    def finalize(value: Any) -> Any:
        # Markup is what a template's own macros made, or a name of ours.
        return value if isinstance(value, Markup) else escape(_visible(value))

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> str:
    """A value on one line, with signs for what would not be seen."""
    return printable(re.sub(r"[\n\r\t]+", " ", str(value)))


def escape_markdown(text: str) -> str:
    """A text as it is, anywhere in Markdown and in HTML: none of its signs means anything."""
    return re.sub(r"[\\`*_{}\[\]<>#$|~&]", lambda found: f"&#{ord(found[0])};", text)


def code_markdown(text: str) -> str:
    """The same as code, which in backticks cannot hold every sign."""
    if re.search(r"[\\`|<>&]|^\s*$", text):
        return f"<code>{escape_markdown(text)}</code>"
    return f"`{text}`"


def markdown_table(table: Table) -> str:
    """A table alone, as Markdown."""
    return render_markdown([table]).strip()
