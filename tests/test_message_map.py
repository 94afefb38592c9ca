"""The map of rows and messages: what it says of each, held to the records."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_pages import HOSTILE, Parsed

from ablation.reports.message_map import MAX_MESSAGES, MAX_TEXT, MessageMap, build_map
from ablation.reports.pages import render_html, render_markdown
from ablation.reports.tables import Configuration
from ablation.sweeps.records import Record
from ablation.system.output import printable
from data_utils import Corpus, Splits


def configuration(labels: list[int], runs: list[tuple[list[int], list[float]]]) -> Configuration:
    """Runs with these predictions and probabilities."""
    records = [
        Record(
            Path("x"),
            {},
            pd.DataFrame({"label": labels, "prediction": given, "probability": probabilities}),
        )
        for given, probabilities in runs
    ]
    return Configuration("1", "", tuple(records))


def corpus_of(labels: list[int], texts: list[str], names: tuple[str, ...]) -> Corpus:
    test = pd.DataFrame({"Label": labels, "Text": texts, "Line": range(len(texts))})
    return Corpus(Splits(test, test, test), names, "made up", None)


@pytest.fixture(autouse=True)
def seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Configuration, "seeds", property(lambda part: [*range(len(part.records))]))


def given_of(found: MessageMap) -> dict[int, list]:
    return {m["number"]: [tuple(row) for row in m["given"]] for m in found.data["messages"]}


def test_of_two_classes_the_probability_is_that_of_the_class_given() -> None:
    labels = [0, 1, 1, 0]
    first = configuration(
        labels,
        [
            ([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.7]),
            ([0, 1, 0, 0], [0.2, 0.8, 0.4, 0.4]),
            ([0, 1, 1, 1], [0.3, 0.7, 0.6, 0.9]),
        ],
    )
    second = configuration(labels, [([0, 1, 0, 0], [0.25, 0.75, 0.125, 0.5])])
    found = build_map(
        [first, second], ["one", "two"], corpus_of(labels, [*"abcd"], ("ham", "spam"))
    )
    # Message 2: wrong in 2 of 3 and 1 of 1; message 3: in 2 of 3 and never.
    assert [message["number"] for message in found.data["messages"]] == [2, 3]
    assert given_of(found) == {
        2: [(0, pytest.approx(((1 - 0.2) + (1 - 0.4)) / 2), 2), (0, 0.875, 1)],
        3: [(1, pytest.approx((0.7 + 0.9) / 2), 2), (0, 0.5, 0)],
    }
    assert [m["text"] for m in found.data["messages"]] == ["c", "d"]
    assert [m["label"] for m in found.data["messages"]] == [1, 0]
    assert found.data["seeds"] == [3, 1]
    assert found.picture.description == (
        "Which rows get which of 4 test messages wrong: the 2 that any row gets wrong, the darker "
        "the more of its seeds. Wrong by row, the mean over seeds: one: 1.333; two: 1."
    )


def test_of_three_classes_it_is_as_recorded() -> None:
    labels = [2, 0]
    first = configuration(labels, [([1, 0], [0.5, 0.9]), ([1, 0], [0.75, 0.8])])
    second = configuration(labels, [([0, 0], [0.4, 0.9]), ([2, 0], [0.6, 0.9])])
    found = build_map([first, second], ["one", "two"], corpus_of(labels, ["a", "b"], (*"xyz",)))
    assert given_of(found) == {0: [(1, 0.625, 2), (0, 0.4, 1)]}, "of two equal ones the first"


def test_there_is_none_where_there_is_nothing_to_compare() -> None:
    right, wrong = ([0, 1], [0.1, 0.9]), ([1, 1], [0.6, 0.9])
    corpus = corpus_of([0, 1], ["a", "b"], ("ham", "spam"))
    parts = [configuration([0, 1], [run]) for run in (right, wrong)]
    assert build_map([], [], corpus) is None
    assert build_map(parts[1:], ["one"], corpus) is None
    assert build_map([parts[0]] * 2, ["one", "two"], corpus) is None
    assert build_map(parts, ["one", "two"], corpus) is not None


def test_many_messages_are_cut_and_that_is_said() -> None:
    """The page stays small for 19 rows of 5 seeds that get every message wrong."""
    n = MAX_MESSAGES + 50
    labels = [0] * n
    draw = np.random.default_rng(1)
    parts = [
        configuration(labels, [([1] * n, draw.random(n).tolist()) for _ in range(5)])
        for _ in range(19)
    ]
    names = [f"{i} a row with a name of words" for i in range(19)]
    found = build_map(parts, names, corpus_of(labels, ["é" * 10_000] * n, ("ham", "spam")))
    messages = found.data["messages"]
    assert len(messages) == MAX_MESSAGES
    assert {len(message["text"]) for message in messages} == {MAX_TEXT + 1}
    said = f"of {n} test messages wrong: the {MAX_MESSAGES} hardest of {n} that any row gets wrong"
    assert said in found.picture.description
    assert len(page_of(found)) < 1_500_000


def page_of(found: MessageMap) -> str:
    return render_html("{{ message_map(map) }}", {"title": "x", "map": found})


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_markup(text: str) -> None:
    labels = [0, 1]
    parts = [configuration(labels, [([1, 1], [0.6, 0.9])]) for _ in range(2)]
    found = build_map(parts, [text, "two"], corpus_of(labels, [text, "b"], (text, "spam")))
    page = page_of(found)
    plain = build_map(parts, ["one", "two"], corpus_of(labels, ["a", "b"], ("ham", "spam")))
    assert Parsed(page).tags == Parsed(page_of(plain)).tags
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    assert not set(data) & set("<>&\u2028\u202e")
    read = json.loads(data)
    assert read["messages"][0]["text"] == printable(text)
    assert read["rows"][0] == read["classes"][0] == printable(text)
    assert page.count("<script") == 2
    markdown = render_markdown("{{ message_map(map) }}", {"map": found})
    assert "script" not in markdown.replace("script&#62;", "").replace("javascript", "")


def test_the_strips_are_where_the_picture_has_them() -> None:
    labels = [0, 1]
    parts = [configuration(labels, [([1, 1], [0.6, 0.9])]) for _ in range(2)]
    found = build_map(parts, ["one", "two"], corpus_of(labels, ["a", "b"], ("ham", "spam")))
    for form, (left, width) in found.strips.items():
        svg = getattr(found.picture, form).decode()
        full = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
        frames = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \n', svg)
        ends = (left / 100 * full, (left + width) / 100 * full)
        assert any(np.allclose([*map(float, frame)], ends, atol=0.01) for frame in frames), form
        assert base64.b64encode(svg.encode()).decode() in page_of(found)
