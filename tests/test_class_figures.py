"""Figures by class in the report, and how they are drawn."""

import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ablation.reports.class_figures import ClassFigures
from ablation.reports.pictures import confusion_matrix
from ablation.system.text_tables import TERMINAL_COLUMNS, align_wrapped, fill

SEEDS = [
    {
        "balanced_accuracy": 0.5,
        "classes": [
            {"label": "a", "texts": 4, "precision": 1.0, "recall": 0.5},
            {"label": "b", "texts": 2, "precision": 0.25, "recall": 0.5},
            {"label": "c", "texts": 2, "precision": 0.5, "recall": 0.5},
        ],
        "confusion": [[2, 2, 0], [0, 1, 1], [0, 1, 1]],
    },
    {
        "balanced_accuracy": 0.75,
        "classes": [
            {"label": "a", "texts": 4, "precision": 0.5, "recall": 0.75},
            {"label": "b", "texts": 2, "precision": 0.5, "recall": 0.5},
            {"label": "c", "texts": 2, "precision": 1.0, "recall": 1.0},
        ],
        "confusion": [[3, 1, 0], [1, 1, 0], [0, 0, 2]],
    },
]


def test_a_class_has_a_line_with_means_over_seeds() -> None:
    table = ClassFigures(SEEDS).table()
    assert table.to_dict("records") == [
        {"class": "a", "texts": "4", "precision %": "75.00", "recall %": "62.50"},
        {"class": "b", "texts": "2", "precision %": "37.50", "recall %": "50.00"},
        {"class": "c", "texts": "2", "precision %": "75.00", "recall %": "75.00"},
    ]


def test_macro_f1_is_shown_where_all_seeds_have_it() -> None:
    assert ClassFigures(SEEDS).summary() == {"balanced %": "62.50"}
    new = [{**seed, "macro_f1": f1} for seed, f1 in zip(SEEDS, (0.25, 0.5), strict=True)]
    assert ClassFigures(new).summary() == {"balanced %": "62.50", "macro-F1 %": "37.50"}
    assert ClassFigures([new[0], SEEDS[1]]).summary() == {"balanced %": "62.50"}


def test_confusions_in_words() -> None:
    assert ClassFigures(SEEDS).confusions() == (
        'Confused most often, the mean over seeds: "a" taken for "b" (1.5 of 4 texts); "b" taken '
        'for "a" (0.5 of 2 texts); "b" taken for "c" (0.5 of 2 texts); "c" taken for "b" (0.5 of '
        "2 texts)."
    )
    many = np.eye(4, dtype=int) * 9 + np.arange(16).reshape(4, 4)
    classes = [{"label": label} for label in "abcd"]
    worded = ClassFigures([{"classes": classes, "confusion": many.tolist()}]).confusions()
    assert re.findall(r'"(.)" taken for "(.)" \((\d+) of', worded) == [
        ("d", "c", "14"),
        ("d", "b", "13"),
        ("d", "a", "12"),
        ("c", "d", "11"),
        ("c", "b", "9"),
    ]
    right = {"classes": classes[:2], "confusion": [[1, 0], [0, 1]]}
    assert ClassFigures([right]).confusions() == "No text was taken for one of another class."


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("n", [2, 3, 20, 77])
def test_a_confusion_matrix_names_every_class_twice(n: int) -> None:
    labels = [f"topic {i:02d}" for i in range(n)]
    rng = np.random.default_rng(0)
    picture = confusion_matrix(labels, rng.integers(0, 9, (n, n)).astype(float))
    svg = picture.wide
    texts = [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]
    for label in labels:
        assert texts.count(label) == 2
    numbers = [text for text in texts if re.fullmatch(r"\d", text)]
    assert len(numbers) == (n * n if n <= 20 else 0), "counts where there is room for them"


def test_a_confusion_matrix_of_any_names() -> None:
    labels = ["退款 <b>", "عربي", "$x$ \\frac", "\x1b[31m\x00", "x" * 500, "&amp;", ""]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = confusion_matrix(labels, np.ones((7, 7))).wide
    texts = {element.text for element in ET.fromstring(svg).iter(f"{SVG}text")}
    assert {"退款 <b>", "عربي", "$x$ \\frac", "\\x1b[31m\\x00", "&amp;", "x" * 29 + "…"} <= texts


# ---------------------------------------------------------------- the terminal


def test_printed_tables_fit_a_terminal() -> None:
    import pandas as pd

    flags = '--trainable_layers lora --lora_rank 16 --lora_alpha 8 --model_size "gpt2-xl (1558M)"'
    names = ["row", "n", "train %", "val %", "test %", "95 % interval", "min"]
    figures = ["99.90 ± 10.00"] * 3
    table = pd.DataFrame(
        [["12", "10", *figures, "90.3 to 96.3", "3724.78", flags], ["1", *[""] * 6, "(none)"]],
        columns=[*names, "flags"],
    )
    lines = align_wrapped(table).splitlines()
    assert max(map(len, lines)) <= TERMINAL_COLUMNS
    at = lines[0].index("flags")
    assert " ".join(line[at:] for line in lines[1:]) == f"{flags} (none)"
    assert lines[0].split()[0] == "row"
    assert lines[-1].split() == ["1", "(none)"]
    assert max(map(len, fill(f"Variants: {flags} {flags}").splitlines())) <= TERMINAL_COLUMNS
