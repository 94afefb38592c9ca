"""The report's pictures: what they say in words, when there is none, and any names."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_result

from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.finetuning.outcomes import History, LossRecord
from ablation.reports import pictures
from ablation.reports.drawing import DARK, NAME_COLUMNS, wrap
from ablation.reports.pages import Picture
from ablation.reports.pictures import Point
from ablation.reports.tables import Configuration
from ablation.sweeps.records import read_record, write_complete
from ablation.system.text_tables import display_width

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["退款 <b>", "عربي", "$x$ \\frac", "\x1b[31m\x00\uffff", "x" * 500, "&amp;", "--><!--", ""]
N_TEST = 40


def configuration(
    folder: Path, counts: list[int], minutes: float = 1, losses: tuple[float, ...] = (0.8, 0.2)
) -> Configuration:
    """Runs of row 1 with so many right, and losses every 50 steps: for validation, the double."""
    labels = [i % 2 for i in range(N_TEST)]
    history = History([LossRecord(1, 50 * i, v, 2 * v) for i, v in enumerate(losses)])
    records = []
    for seed, count in enumerate(counts):
        classes = [label if i < count else 1 - label for i, label in enumerate(labels)]
        seconds = {"features": 0.0, "training": 60.0 * minutes, "evaluation": 1.0}
        result = replace(make_result(labels, classes), history=history, seconds=seconds)
        run = Run(replace(configure(ROWS[1], {}), seed=seed))
        data = {"name": "demo", "split_sha256": "0" * 64}
        records.append(read_record(write_complete(folder, run, result, data)))
    return Configuration("1", "", tuple(records))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """Three, with 75 and 80 %, 90 % and 100 % right, in 1, 2 and 4 minutes."""
    tmp_path = tmp_path_factory.mktemp("runs")
    parts = [
        configuration(tmp_path / str(minutes), counts, minutes)
        for minutes, counts in ((1, [30, 32]), (2, [36, 36]), (4, [40, 40]))
    ]
    named = zip(parts, (75.0, None, 98.0), ("first", "second", "third"), strict=True)
    return [
        Point(replace(part, label=str(i)), published, f"{i} the {name}?")
        for i, (part, published, name) in enumerate(named, start=1)
    ]


def texts_of(svg: bytes) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def every_picture(points: list[Point]) -> list[Picture | None]:
    return [
        pictures.accuracy(points, 97.67),
        pictures.side_by_side([(point, points[-1]) for point in points], ("with", "--without")),
        pictures.minutes(points),
        pictures.learning(points),
    ]


@pytest.fixture(scope="module")
def drawn(points: list[Point]) -> list[Picture]:
    """All of them."""
    return every_picture(points)


def test_accuracies_in_words(points: list[Point], drawn: list[Picture]) -> None:
    picture = drawn[0]
    first, second, third = (
        "({:.2f} to {:.2f})".format(*point.configuration.interval) for point in points
    )
    assert picture.description == (
        "Test accuracy with its 95 % interval. "
        f"1 the first?: 77.50 % {first}, published 75.00 %. "
        f"2 the second?: 90.00 % {second}. "
        f"3 the third?: 100.00 % {third}, published 98.00 %. "
        "A linear SVM on characters: 97.67 %."
    )
    for svg in (picture.wide, picture.narrow):
        assert {"1 the first?", "77.50", "linear SVM on characters: 97.67 %"} <= {*texts_of(svg)}
        assert "published" in texts_of(svg)
    unpublished = pictures.accuracy([replace(points[0], published=None)], 50)
    assert "published" not in texts_of(unpublished.wide)


def test_the_marks_stand_where_the_numbers_are(drawn: list[Picture]) -> None:
    """Ticks of the axis say where each accuracy is to be."""
    for svg in (drawn[0].wide, drawn[0].narrow):
        root = ET.fromstring(svg)
        ticks = {}
        for tick in root.iterfind(f".//{SVG}g[@id='matplotlib.axis_1']/{SVG}g"):
            if (text := tick.find(f".//{SVG}text")) is not None and text.text.isdigit():
                ticks[float(text.text)] = float(tick.find(f".//{SVG}use").get("x"))
        (low, x_low), *_, (high, x_high) = sorted(ticks.items())
        used = [
            [float(use.get("x")) for use in group.iter(f"{SVG}use")]
            for group in root.iter(f"{SVG}g")
            if re.fullmatch(r"line2d_\d+", group.get("id", ""))
        ]
        expected = [x_low + (a - low) / (high - low) * (x_high - x_low) for a in (77.5, 90, 100)]
        assert any(np.allclose(xs, expected, atol=0.05) for xs in used if len(xs) == 3)


def test_two_groups_in_words(points: list[Point]) -> None:
    pair = (points[0], replace(points[1], name="of the other group"))
    picture = pictures.side_by_side([pair], ("with the mask", "--disable_causal_mask"))
    ends = [*points[0].configuration.interval, *points[1].configuration.interval]
    assert picture.description == (
        "Test accuracy with its 95 % interval, with the mask and --disable_causal_mask. "
        "1 the first?: 77.50 % ({:.2f} to {:.2f}), against 90.00 % ({:.2f} to {:.2f}).".format(
            *ends
        )
    )
    texts = texts_of(picture.narrow)
    assert "77.50 → 90.00" in texts
    assert {"with the mask", "--disable_causal_mask"} <= {*texts}
    same = pictures.side_by_side([(points[0], points[0])], ("a", "b"))
    assert "77.50 → 77.50" in texts_of(same.wide)


def test_minutes_in_words(drawn: list[Picture]) -> None:
    picture = drawn[2]
    said = re.findall(
        r"(\d) the \w+\?: ([\d.]+) % \(.*?\) in ([\d.]+) minutes", picture.description
    )
    assert said == [("1", "77.50", "1.00"), ("2", "90.00", "2.00"), ("3", "100.00", "4.00")]
    for svg in (picture.wide, picture.narrow):
        assert {"1", "1  the first?", "3", "3  the third?"} <= {*texts_of(svg)}


def test_keys_of_minutes_are_told_apart_where_rows_have_long_names(points: list[Point]) -> None:
    named = [
        replace(p, configuration=replace(p.configuration, label=p.name * 3), name=p.name[2:])
        for p in points
    ]
    texts = texts_of(pictures.minutes(named).wide)
    assert {"1", "1  the first?", "2", "2  the second?"} <= {*texts}


def test_losses_in_words(tmp_path: Path) -> None:
    part = configuration(tmp_path, [30, 31], losses=(0.8, 0.4, 0.1))
    once = configuration(tmp_path / "once", [30], losses=(0.8,))
    picture = pictures.learning([Point(part, None, "1 a"), Point(once, None, "2 b")])
    assert picture.description == (
        "Losses by step, means over seeds. 1 a: training loss from 0.800 to 0.100, "
        "validation loss from 1.600 to 0.200 in 100 steps."
    )
    assert "2 b" not in texts_of(picture.wide)
    assert pictures.learning([Point(once, None, "2 b")]) is None


def test_no_picture_where_there_is_nothing_to_show(points: list[Point]) -> None:
    assert pictures.accuracy([], 50) is None
    assert pictures.accuracy(points[:1], 50) is not None
    assert pictures.side_by_side([], ("a", "b")) is None
    assert pictures.minutes(points[:2]) is None
    assert pictures.minutes([points[0]] * 3) is None, "all took the same time"
    assert pictures.learning([]) is None
    assert pictures.confusion_matrix(["a", "b"], np.diag([3.0, 4.0])) is None
    assert pictures.minutes([]) is None


def test_the_same_picture_from_the_same_records(points: list[Point], drawn: list[Picture]) -> None:
    assert every_picture(points) == drawn


def test_any_names(points: list[Point]) -> None:
    named = [replace(points[i % 3], name=name) for i, name in enumerate(NAMES)]
    shown = ("退款 <b>", "عربي", "$x$ \\frac", "\\x1b[31m\\x00\ufffd", "&amp;", "--><!--")
    for picture in every_picture(named):
        for svg in (picture.wide, picture.narrow):
            said = "\n".join(texts_of(svg))  # so it is XML
            assert [name for name in shown if name not in said] == []


def test_dark_pages_and_the_readers_fonts(drawn: list[Picture]) -> None:
    for picture in drawn:
        for svg in (picture.wide.decode(), picture.narrow.decode()):
            used = {*re.findall(r"(?:fill|stroke): (#\w{6})", svg)}
            assert used - {"#ffffff"} <= {*DARK}, "every colour has one for dark pages"
            assert svg.count("prefers-color-scheme:dark") == 1
            sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
            assert min(sizes) >= 9
            assert "text{font-family:system-ui,sans-serif!important}" in svg


def test_pictures_fit_what_they_are_for(drawn: list[Picture]) -> None:
    for picture in drawn:
        for svg, width in ((picture.wide, 7.5), (picture.narrow, 3.7)):
            assert f'width="{72 * width:g}pt"' in svg[:2000].decode()


def test_a_confusion_in_words() -> None:
    picture = pictures.confusion_matrix(["ham", "spam"], np.array([[150.0, 3], [12.5, 134.5]]))
    assert picture.description == (
        "Which class was taken for which: 94.83 % are right. Most often, "
        '12.5 of 147 texts of "spam" were taken for "ham"; '
        '3 of 153 texts of "ham" were taken for "spam".'
    )
    assert {"150", "12.5"} <= {*texts_of(picture.narrow)}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        (
            "padding to the full context instead of the longest training text",
            ["padding to the full context instead of", "the longest training text"],
        ),
        ("x" * 100, ["x" * 38, "x" * 37 + "…"]),
        ("退" * 50, ["退" * 19, "退" * 18 + "…"]),
        ("a\nb", ["a b"]),
    ],
)
def test_long_names_are_wrapped_and_cut(text: str, lines: list[str]) -> None:
    found = wrap(text).split("\n")
    assert found == lines
    assert max(map(display_width, found)) <= NAME_COLUMNS
