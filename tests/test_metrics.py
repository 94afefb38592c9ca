import random
import unicodedata

import pytest
import torch
from sklearn.metrics import f1_score

from ablation.finetuning.metrics import format_metrics, measure_classes
from ablation.finetuning.outcomes import Predictions
from ablation.system.text_tables import TERMINAL_COLUMNS, align, cut, cut_apart, display_width


def predictions(actual: list[int], predicted: list[int], n_classes: int) -> Predictions:
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), n_classes).float()
    return Predictions(logits, torch.tensor(actual))


def test_figures_worked_out_by_hand() -> None:
    """Class 0: 2 of 3 found, 2 of 3 right; class 1: 1 of 2 found, 1 of 2 right."""
    found = measure_classes(predictions([0, 0, 0, 1, 1], [0, 0, 1, 1, 0], 2), ["a", "b"])
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    found = measure_classes(predictions([0, 0, 0, 0, 1], [0, 0, 1, 1, 1], 2), ["a", "b"])
    # Precision and recall are 1 and 1/2, 1/3 and 1: F1 is 2/3 and 1/2.
    assert found["balanced_accuracy"] == pytest.approx(3 / 4)
    assert found["macro_f1"] == pytest.approx(7 / 12)
    assert found["confusion"] == [[2, 2], [0, 1]]


def test_a_class_without_test_texts_counts_in_no_mean() -> None:
    """Neither a class that was never predicted (3) nor one that was (1)."""
    found = measure_classes(predictions([0, 0, 2, 2], [0, 1, 2, 2], 4), list("abcd"))
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert [part["texts"] for part in found["classes"]] == [2, 0, 2, 0]
    rows = [line.split() for line in format_metrics(found).splitlines()[3:]]
    assert [row[3] for row in rows] == ["50.00%", "-", "100.00%", "-"], "no recall of no texts"


@pytest.mark.parametrize("n_classes", [2, 5, 40])
def test_macro_f1_is_scikit_learns(n_classes: int) -> None:
    draw = random.Random(n_classes)
    actual, predicted = (draw.choices(range(n_classes), k=60) for _ in range(2))
    found = measure_classes(
        predictions(actual, predicted, n_classes), [str(i) for i in range(n_classes)]
    )
    expected = f1_score(
        actual, predicted, labels=sorted(set(actual)), average="macro", zero_division=0
    )
    assert found["macro_f1"] == pytest.approx(expected)


# ---------------------------------------------------------------- on a terminal


def test_few_classes_are_shown_whole() -> None:
    found = measure_classes(predictions([0, 0, 0, 1, 1], [0, 0, 1, 1, 0], 2), ["ham", "日本"])
    assert format_metrics(found).splitlines() == [
        "Test balanced accuracy: 58.33%",
        "Test macro-F1: 58.33%",
        "label  texts  precision  recall  as ham  as 日本",
        "ham        3     66.67%  66.67%       2        1",
        "日本       2     50.00%  50.00%       1        1",
    ]


def test_an_old_record_is_shown_as_it_was_measured() -> None:
    found = measure_classes(predictions([0, 1], [0, 1], 2), ["a", "b"])
    del found["macro_f1"]
    assert "macro" not in format_metrics(found)
    assert "Test balanced accuracy: 100.00%" in format_metrics(found)


def test_of_many_classes_the_worst_are_shown() -> None:
    """Of class k of 20, all 10 texts but k mod 10 are right; the others count as the next class.
    The last class has no texts."""
    actual = [k for k in range(20) for _ in range(10)]
    predicted = [k + (i < k % 10) for k in range(20) for i in range(10)]
    found = measure_classes(predictions(actual, predicted, 21), [f"c{k}" for k in range(21)])
    lines = format_metrics(found).splitlines()
    assert lines[2] == "The 5 worst of 21 classes; result.json has all:"
    # Recall is 1, 1, 2, 2 and 3 of 10; of equal ones, the less precise comes first.
    assert [line.split()[:2] for line in lines[4:9]] == [
        ["c9", "10"], ["c19", "10"], ["c8", "10"], ["c18", "10"], ["c7", "10"],
    ]  # fmt: skip
    assert lines[9:] == [
        "Most frequent confusions:",
        "  c9 as c10: 9 of 10 texts",
        "  c19 as c20: 9 of 10 texts",
        "  c8 as c9: 8 of 10 texts",
        "  c18 as c19: 8 of 10 texts",
        "  c7 as c8: 7 of 10 texts",
    ]


@pytest.mark.parametrize("n_classes", [12, 13])
def test_where_the_table_ends(n_classes: int) -> None:
    actual = [*range(n_classes)] * 2
    labels = [f"a rather long label {i}" for i in range(n_classes)]
    predicted = [*range(n_classes), 1, *range(1, n_classes)]
    shown = format_metrics(measure_classes(predictions(actual, predicted, n_classes), labels))
    rows = [line for line in shown.splitlines() if line.startswith("a rather")]
    assert len(rows) == (12 if n_classes == 12 else 5)
    assert "a rather long label 0 as a rather long label 1: 1 of 2 texts" in shown


LABELS = {
    "short": "ab",
    "long": "x" * 5000,
    "wide": "分類の名前" * 30,
    "combining": "e\u0301" * 300,
    "emoji": "👩\u200d🚀❤\ufe0f" * 40,
    "lines": "one\ntwo\x1b[31m\t" * 20,
}


@pytest.mark.parametrize("n_classes", [2, 3, 6, 9, 12, 13, 80])
@pytest.mark.parametrize("kind", LABELS)
def test_no_line_is_wider_than_a_terminal(kind: str, n_classes: int) -> None:
    draw = random.Random(5)
    actual, predicted = (draw.choices(range(n_classes), k=3000) for _ in range(2))
    labels = [f"{i} {LABELS[kind]}" for i in range(n_classes)]
    found = measure_classes(predictions(actual, predicted, n_classes), labels)
    found["classes"][0]["texts"] = found["confusion"][0][1] = 10_000_000
    for line in format_metrics(found).splitlines():
        assert display_width(line) <= TERMINAL_COLUMNS
        assert line.isprintable()


def test_what_columns_characters_take() -> None:
    widths = {"": 0, "ab": 2, "日本": 4, "ｶﾅ": 2, "e\u0301": 1, "한": 2, "👍": 2, "❤\ufe0f": 2}
    assert {text: display_width(text) for text in widths} == widths
    assert display_width(unicodedata.normalize("NFD", "한글")) == 4


def test_texts_are_cut_by_columns() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語だ", 6) == "日本…", "half a character is none"
    assert cut("e\u0301" * 7, 6) == "e\u0301" * 5 + "…", "a mark stays with its letter"
    assert cut("e\u0301" * 6, 6) == "e\u0301" * 6


def test_texts_that_would_look_alike_lose_their_middle() -> None:
    assert cut_apart(["abcdefgh1", "abcdefgh2", "x"], 6) == ["ab…gh1", "ab…gh2", "x"]
    assert cut_apart(["abcdefgh1", "zbcdefgh2"], 6) == ["abcde…", "zbcde…"]
    assert cut_apart(["日本語の名前", "日本語の名所"], 7) == ["日…前", "日…所"]
    accented = cut_apart(["e\u0301" * 9 + letter for letter in "ab"], 4)
    assert accented == ["e\u0301…e\u0301a", "e\u0301…e\u0301b"]


def test_columns_are_aligned() -> None:
    assert align([["a", "bc"], ["日本", "d"]]) == ["a     bc", "日本   d"]
