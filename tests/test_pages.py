"""Pages: nothing that enters one is markup, in any block."""

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from helpers import make_result, sizes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.config.identity import identify_data
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.data.corpora import load_corpus
from ablation.reports.folder_report import write_report
from ablation.reports.pages import (
    Picture,
    code_markdown,
    escape_markdown,
    markdown_table,
    render_html,
    render_markdown,
)
from ablation.sweeps.records import RESULT_NAME, read_records, write_complete, write_incomplete
from ablation.system.output import printable

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</title></td></table></code><script>alert(1)</script>",
    '" onload="alert(1)',
    "`<svg onload=alert(1)>`",
    "[x](javascript:alert(1)) ![y](http://z)",
    "| a | b |",
    "**b** _i_ ~~s~~ $m$ # h &lt;b&gt; &#60;",
    "{{ 7 * 7 }} {% raw %}",
    "\x1b[31m\x00\x07\u202eevil\u2028",
    "\\` \\| \\",
    "--><!--",
]
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul", "li"),
    *("strong", "img", "div", "table", "thead", "tbody", "tr", "th", "td", "code", "span"),
    *("picture", "source", "script", "main", "nav", "a", "section"),
    *("details", "summary", "dl", "dt", "dd"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "alt", "src"}
ATTRIBUTES |= {"media", "srcset", "id", "href", "role", "scope", "colspan", "aria-label"}
ATTRIBUTES |= {"aria-labelledby", "data-label", "data-value"}


class Parsed(HTMLParser):
    """What a browser makes of a page: tags, attributes, texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.texts += [value for name, value in attributes if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


CONTENTS = """
{{ heading(text, level=1) }}
{{ heading(text) }}
{% call paragraph() %}{{ text }}{% endcall %}
{{ table(frame) }}
{% call bullets() %}
{% call bullet(text) %}{{ text }}{% endcall %}
{% endcall %}
{{ picture(shown) }}
"""


def values_with(text: str) -> dict[str, object]:
    return {
        "title": text,
        "text": text,
        "frame": pd.DataFrame([[text, text], ["", text]], columns=[text, "flags"]),
        "shown": Picture("01-x.svg", text, b"<svg/>", b"<svg />"),
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_html_shows_what_it_is_given(text: str) -> None:
    page = render_html(CONTENTS, values_with(text))
    parsed = Parsed(page)
    assert parsed.tags <= TAGS
    assert parsed.attributes <= ATTRIBUTES
    shown = "".join(parsed.texts)
    words = printable(text).split(" ")
    for word in words:
        assert shown.count(word) >= 6, word
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028]", page)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_what_it_is_given(text: str) -> None:
    page = render_markdown(CONTENTS, values_with(text))
    assert "<" not in page.replace("<code>", "").replace("</code>", "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028]", page)
    escaped = escape_markdown(printable(text))
    assert html.unescape(escaped) == printable(text)
    assert page.count(escaped) >= 6
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {3}
    assert len(table) == 4


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_escaped_markdown_has_no_sign_that_means_something(text: str) -> None:
    escaped = escape_markdown(text)
    assert html.unescape(re.sub(r"&(?!#\d+;)", "", escaped)) == html.unescape(escaped)
    left = re.sub(r"&#\d+;", "", escaped)
    assert set(left).isdisjoint("\\`*_{}[]<>#$|~&")
    code = code_markdown(text)
    if code.startswith("<code>"):
        assert code == f"<code>{escaped}</code>"
    else:
        assert code == f"`{text}`"
        assert set(text).isdisjoint("`|\\<>&")


def test_flags_stay_readable_in_markdown() -> None:
    flags = '--model_size "gpt2-xl (1558M)" --trainable_layers all'
    assert f"| `{flags}` |" in markdown_table(pd.DataFrame({"flags": [flags]}))


def test_a_page_may_load_nothing() -> None:
    page = render_html(CONTENTS, values_with("x"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules == {
        "script-src": f"'sha256-{checksum}'",
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    data = base64.b64encode(b"<svg/>").decode()
    assert re.findall(r'src="([^"]*)"', page) == [f"data:image/svg+xml;base64,{data}"]


def test_a_report_on_hostile_names(tmp_path: Path) -> None:
    """File, labels, texts, flags, commit, device and errors come from outside."""
    evil = "<img src=x onerror=alert(1)>`|\x1b[2J"
    file = tmp_path / "<img src=x onerror=alert(1)>.csv"
    lines = [f"{evil} {i},{evil}{i % 3}" for i in range(30)]
    file.write_text("\n".join([f"{evil}text,{evil}label", *lines]))
    flags = {
        **{"model_size": "gpt2-tiny (3M)", "weights": "random", "dataset": str(file)},
        **{"text_column": f"{evil}text", "label_column": f"{evil}label"},
    }
    for seed in (1, 2):
        run = Run(replace(configure(ROWS[1], flags), seed=seed), flags)
        corpus = load_corpus(run.config)
        labels = corpus.parts.test["Label"].tolist()
        predicted = [(label + i % 2) % 3 for i, label in enumerate(labels)]
        result = make_result(
            labels, predicted, **sizes_of(corpus), labels_of_classes=corpus.class_names
        )
        folder = write_complete(tmp_path / "runs", run, result, identify_data(corpus))
        content = json.loads((folder / RESULT_NAME).read_text())
        content["commit"] = content["device"]["name"] = content["versions"]["torch"] = evil
        (folder / RESULT_NAME).write_text(json.dumps(content))
    write_incomplete(tmp_path / "runs", Run(configure(ROWS[2], flags)), "failed", evil)
    assert len(read_records(tmp_path / "runs")) == 3
    write_report(tmp_path / "runs", tmp_path)
    page = (tmp_path / "runs" / "report.html").read_text()
    parsed = Parsed(page)
    assert parsed.tags <= TAGS
    assert parsed.attributes <= ATTRIBUTES
    assert "".join(parsed.texts).count("<img src=x onerror=alert(1)>") > 20
    text = (tmp_path / "runs" / "report.md").read_text()
    assert "<img" not in text
    for written in (page, text):
        assert "\x1b" not in written
        assert "x1b" in written
    for picture in (tmp_path / "runs" / "report_pictures").iterdir():
        svg = picture.read_text()
        assert "<img" not in svg
        assert "\x1b" not in svg
