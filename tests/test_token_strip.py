"""The strip of tokens: what it says, and that no text of it is markup."""

import re

import numpy as np
import pytest
from test_by_token import TEXT, made_up, make_classifier, run  # noqa: F401
from test_pages import ATTRIBUTES, HOSTILE, TAGS, Parsed

import predict
from ablation.data.demo import byte_encoding
from ablation.finetuning.by_token import ByToken, read_by_token
from ablation.reports.token_strip import make_strip, render_strips
from ablation.system.output import printable


def cells_of(page: str) -> list[tuple[str, ...]]:
    """Classes, flag, lowest and highest probability, number and word of each cell of a page."""
    return re.findall(
        r'<li class="([^"]*)"><span class="flag">([^<]*)</span>'
        r'<span class="bar" style="--low: ([\d.]+); --high: ([\d.]+)"></span>'
        r'<span class="number">([^<]*)</span><span class="word">([^<]*)</span></li>',
        page,
    )


def test_a_cell_for_each_token_and_for_each_stretch_of_padding() -> None:
    read = made_up([0.75, 0.25, 0.25, 0.125, 0.5625, 0.75, 0.875, 0.625])
    assert cells_of(render_strips([make_strip(read)])) == [
        ("token", "spam", "0.7500", "0.7500", "0.75", "a"),
        ("token other", "ham", "0.2500", "0.2500", "0.25", "·b"),
        ("padding other", "", "0.1250", "0.2500", "0.12 to 0.25", "padding 1 to 2"),
        ("padding", "spam", "0.5625", "0.8750", "0.56 to 0.88", "padding 3 to 5"),
        ("padding answer", "", "0.6250", "0.6250", "0.62", "padding 6"),
    ]
    table = make_strip(read).table
    assert table["best class"].tolist() == ["spam", "ham", "ham", "spam", "spam, the answer"]


def test_of_another_class_and_with_what_is_left_out() -> None:
    read = made_up([0.25, 0.75] * 100)
    strip = make_strip(read, "ham", "Row 1")
    assert (strip.title, strip.cells[0].low, strip.cells[1].low) == ("Row 1", 0.75, 0.25)
    assert 'probability of "ham"' in strip.says
    assert [cell.words for cell in strip.cells if cell.is_gap] == ["186 more changes"]
    assert len(cells_of(render_strips([strip]))) == 14


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_markup(text: str) -> None:
    names, table = (text, f"{text} 2"), np.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]])
    tokens = tuple(part.encode() for part in (text, "b", "c"))
    read = ByToken(text, names, (1, 2, 3), tokens, table, 2, "It reads.")
    page = render_strips([make_strip(read)])
    parsed = Parsed(page)
    assert parsed.tags <= {*TAGS, "ol", "script"}
    assert parsed.attributes <= {*ATTRIBUTES, "style"}
    shown = "".join(parsed.texts)
    assert shown.count(printable(text)) >= 3
    assert printable(text).replace(" ", "·") in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u2028]", page)


def test_the_page_of_predict(run, tmp_path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    path = tmp_path / "a.html"
    assert predict.main([str(run), "--by_token", TEXT, "x" * 200, "--html", str(path)]) == 0
    captured = capsys.readouterr()
    assert f"Page: {path}" in captured.err
    page = path.read_text()
    tokens = [cell[-1] for cell in cells_of(page) if "token" in cell[0]]
    assert tokens[:11] == ["W", "I", "N", "·", r"\xc2", r"\xa3", "5", "·", "n", "o", "w"]
    assert "The text is longer: the model reads 90 tokens, and not the 110" in page
    assert page.count(' answer">') == 2
    assert predict.main([str(run), "--by_token", TEXT, "--html", "/proc/a.html"]) == 1
    message = capsys.readouterr().err
    assert "--html /proc/a.html cannot be written: the folder /proc does not take it" in message
    assert "Errno" not in message
    assert "/." not in message, "the name of a temporary file"


def test_probabilities_on_a_page_are_those_of_the_model() -> None:
    read = read_by_token(make_classifier(), byte_encoding(), TEXT)
    cells = cells_of(render_strips([make_strip(read, "spam")]))
    own = [f"{p:.4f}" for p in read.probability_of("spam")]
    assert [cell[2] for cell in cells[:11]] == own[:11]
    assert cells[-1][2] == own[-1]
