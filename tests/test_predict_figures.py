"""What predict.py says of a file with true classes, and of classes beside the best."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score

import predict
from additional_experiments import main

LABELS = ("=cold", "hot", 'luke"warm')
TINY = "--model_size tiny --weights random --max_steps 20 --learning_rate 2e-3 --batch_size 4"


def write_rows(path: Path, rows: list[tuple[str, ...]], names: str = "said,kind") -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names.split(","), *rows])
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with three classes, and the file that it was trained on."""
    folder = tmp_path_factory.mktemp("model")
    rows = [(f"it is {label} today, day {i}", label) for i in range(12) for label in LABELS]
    path = write_rows(folder / "a.csv", rows)
    flags = ["--dataset", path, "--text_column", "said", "--label_column", "kind"]
    assert main([*flags, *TINY.split(), "--output_dir", str(folder), "--save_model"]) == 0
    return next(folder.glob("row*")), path


@pytest.fixture
def answer(
    model: tuple[Path, str], capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Runs predict.py with that model: exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = predict.main([str(model[0]), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


COLUMNS = ("--column", "said", "--label_column", "kind")


def test_the_figures_of_a_file(answer: Callable, tmp_path: Path) -> None:
    """Against scikit-learn and scipy, from the predictions that the same command prints."""
    kinds = [LABELS[i % 3] for i in range(20)] + ["hot"] * 7
    rows = [(f"{kind} or what, number {i}", f" {kind} ") for i, kind in enumerate(kinds)]
    table = write_rows(tmp_path / "b.csv", rows)
    status, out, err = answer("--csv", table, *COLUMNS)
    assert status == 0
    assert "trained on" not in err
    status, lines, figures = answer("--csv", table, *COLUMNS, "--format", "jsonl")
    found = [json.loads(line) for line in lines.splitlines()]
    assert [line["actual"] for line in found] == kinds
    assert out in figures, "with predictions, the figures are on standard error"
    predicted = [line["label"] for line in found]
    correct = sum(a == b for a, b in zip(kinds, predicted, strict=True))
    interval = binomtest(correct, 27).proportion_ci(method="exact")
    assert out.splitlines()[:3] == [
        f"Accuracy: {correct / 27:.2%} of 27 texts, "
        f"95 % interval {interval.low:.2%} to {interval.high:.2%}",
        f"Balanced accuracy: {balanced_accuracy_score(kinds, predicted):.2%}",
        f"Macro-F1: {f1_score(kinds, predicted, average='macro', zero_division=0):.2%}",
    ]
    for label, line in zip(LABELS, out.splitlines()[4:], strict=True):
        counts = [kinds[i] == label and predicted[i] for i in range(27)]
        assert line.split()[-3:] == [str(counts.count(other)) for other in LABELS]
        assert line.split()[1] == str(kinds.count(label))


def test_classes_without_texts_are_left_out_of_means_and_that_is_said(
    answer: Callable, tmp_path: Path
) -> None:
    rows = [(f"it is {label} today, {i}", label) for i in range(9) for label in LABELS[:2]]
    out = answer("--csv", write_rows(tmp_path / "b.csv", rows), *COLUMNS)[1]
    for line in out.splitlines()[1:3]:
        assert line.endswith("% (over the 2 of 3 classes with texts here)")


def test_the_training_file_is_no_test(answer: Callable, model: tuple[Path, str]) -> None:
    status, out, err = answer("--csv", model[1], *COLUMNS)
    assert status == 0
    assert f"{model[1]}: the model was trained on texts of this file" in err
    by_number = ("--column", "1", "--label_column", "2", "--header", "yes")
    assert answer("--csv", model[1], *by_number)[1] == out


def test_all_classes_of_many_are_shown() -> None:
    from ablation.finetuning.metrics import format_metrics, measure_confusion

    metrics = measure_confusion(np.eye(40, dtype=int), [f"c{i}" for i in range(40)])
    shown = format_metrics(metrics, recorded=False)
    assert [line.split()[0] for line in shown.splitlines()[3:]] == [f"c{i}" for i in range(40)]
    assert "Test" not in shown
    assert "result.json" not in shown


def test_labels_that_no_prediction_could_match(answer: Callable, tmp_path: Path) -> None:
    rows = [("a", "hot"), ("b", "Hot"), ("c", ""), ("d", "NA"), ("e", "Hot"), ("f", "x")]
    status, out, err = answer("--csv", write_rows(tmp_path / "b.csv", rows), *COLUMNS)
    assert status == 1
    assert out == ""
    assert "of 6 rows, 2 lack a label and 3 have one that the model does not know" in err
    assert '"Hot" in line 3, "" in line 4, "NA" in line 5, "x" in line 7.' in err
    assert '"=cold", "hot", "luke"warm"' in err
    status, out, err = answer("--csv", write_rows(tmp_path / "b.csv", []), *COLUMNS)
    assert (status, out) == (1, "")
    assert "has no rows" in err


def test_one_class_and_blank_texts_are_measured(answer: Callable, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "b.csv", [("", "hot"), ("it is hot", "hot"), ("hot", "hot")])
    status, out, err = answer("--csv", table, *COLUMNS)
    assert status == 0
    assert "of 3 texts" in out
    assert "Blank texts, classified like the others: 1 of 3" in err
    cold, warm = (out.splitlines()[4 + i].split() for i in (0, 2))
    assert cold[1] == warm[1] == "0"
    assert cold[3] == warm[3] == "-", "no recall of no texts"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("hot --label_column kind", "--label_column without --csv FILE"),
        ("--csv x --column kind --label_column kind", '--column "kind" is also the --label_column'),
        ("--csv x --column 1 --label_column kind", "give names only, or numbers only"),
        ("--csv x --column said --label_column kind --header no", "--header no with --column"),
        ("--csv x --column said --label_column kind --top 2", "add --format text, csv or jsonl"),
        ("--column said hot", "--column without --csv FILE"),
        ("hot --top 0", "--top 0: not a whole number"),
        ("hot --top 4", "--top 4: the model has 3 classes"),
        ("hot --top 2 --probabilities all", "--top 2 with --probabilities all: give one of them"),
        ("hot --probabilities some", "no such choice"),
    ],
)
def test_what_makes_no_sense_is_refused(answer: Callable, flags: str, words: str) -> None:
    status, out, err = answer(*flags.split())
    assert (status, out) == (2, "")
    assert words in err


# ---------------------------------------------------------------- more than the best class


def test_more_classes_in_each_format(answer: Callable) -> None:
    texts = ("it is hot", "cold")
    plain = [json.loads(line) for line in answer(*texts, "--format", "jsonl")[1].splitlines()]
    lines = answer(*texts, "--format", "jsonl", "--probabilities", "all")[1].splitlines()
    for line, best in zip(map(json.loads, lines), plain, strict=True):
        every = line.pop("probabilities")
        assert line == best, "what is printed without the flag stays"
        assert sorted(every) == sorted(LABELS)
        assert sum(every.values()) == pytest.approx(1)
        assert list(every.values()) == sorted(every.values(), reverse=True)
        assert next(iter(every.items())) == (best["label"], best["probability"])
    ranked = [list(json.loads(line)["probabilities"].items()) for line in lines]

    rows = csv.DictReader(io.StringIO(answer(*texts, "--format", "csv", "--top", "2")[1]))
    for row, ((first, p), (second, q), _) in zip(rows, ranked, strict=True):
        assert [row["label"], row["label_2"]] == [
            name.replace("=", "'=") for name in (first, second)
        ]
        assert [float(row["probability"]), float(row["probability_2"])] == pytest.approx([p, q])
        assert len(row) == 5
    rows = csv.DictReader(
        io.StringIO(answer(*texts, "--format", "csv", "--probabilities", "all")[1])
    )
    for row, classes in zip(rows, ranked, strict=True):
        for name, p in classes:
            assert float(row[f"probability_{name}"]) == pytest.approx(p)
    shown = answer(*texts, "--top", "3")[1]
    assert shown == answer(*texts, "--probabilities", "all")[1]
    for line, text, classes in zip(shown.splitlines(), texts, ranked, strict=True):
        assert line == "  ".join([*(f"{name:<9}  {p:.4f}" for name, p in classes), text])
    for form in ("text", "csv"):
        same = [answer(*texts, "--format", form, *more) for more in ((), ("--top", "1"))]
        assert same[0] == same[1]


def test_predictions_beside_true_classes(answer: Callable, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "b.csv", [("it is hot", "hot"), ("cold", "=cold")])
    _, out, err = answer("--csv", table, *COLUMNS, "--format", "csv", "--top", "2")
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["index", "label", "probability", "label_2", "probability_2", "actual"]
    assert [row[-1] for row in rows[1:]] == ["hot", "'=cold"], "a formula for no spreadsheet"
    assert err.splitlines()[-7].startswith("Accuracy: ")
    _, out, err = answer("--csv", table, *COLUMNS, "--format", "text")
    (hot, cold), labels = out.splitlines(), [row[1].lstrip("'") for row in rows[1:]]
    assert hot.startswith(f"{labels[0]:<9}  ")
    assert hot.endswith("  hot        it is hot")
    assert cold.endswith("  =cold      cold")
