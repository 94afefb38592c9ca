import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers import config_from_flags

import own_data
from additional_experiments import main
from data_utils import Corpus
from errors import DataError
from experiment_config import ExperimentConfig
from own_data import load_own_corpus, read_columns
from run_records import read_records

TOPICS = {"sport": 40, "money": 30, "weather": 20}


def write_topics(path: Path, counts: dict[str, int] = TOPICS, separator: str = ",") -> Path:
    rows = [
        {"id": i, "Text": f"{topic} news, number {i}", "Label": topic}
        for topic, n in counts.items()
        for i in range(n)
    ]
    pd.DataFrame(rows).to_csv(path, index=False, sep=separator)
    return path


def load(path: Path, **options: object) -> Corpus:
    return load_own_corpus(ExperimentConfig(dataset=str(path), **options))


def counts(part: pd.DataFrame) -> dict[int, int]:
    return dict(Counter(part["Label"]))


def test_split_is_stratified_seeded_and_loses_nothing(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "a.csv")
    corpus = load(path)
    assert corpus.labels == ("money", "sport", "weather")
    assert counts(corpus.parts.test) == {0: 6, 1: 8, 2: 4}
    assert counts(corpus.parts.validation) == {0: 3, 1: 4, 2: 2}
    assert counts(corpus.parts.train) == {0: 21, 1: 28, 2: 14}
    every = pd.concat(vars(corpus.parts).values())
    assert sorted(every["Text"]) == sorted(pd.read_csv(path)["Text"])
    for text, label in zip(every["Text"], every["Label"], strict=True):
        assert text.startswith(corpus.labels[label])
    again = load(path, seed=7)
    assert again.parts.train.equals(corpus.parts.train), "the split never follows --seed"
    assert corpus.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(load(path, val_fraction=0.2, test_fraction=0.5).parts.test) == 45


def test_balance_undersamples(tmp_path: Path) -> None:
    corpus = load(write_topics(tmp_path / "a.csv"), balance=True)
    every = pd.concat(vars(corpus.parts).values())
    assert counts(every) == {0: 20, 1: 20, 2: 20}
    assert every["Text"].is_unique


def test_three_files(tmp_path: Path) -> None:
    train, validation, test = (
        str(write_topics(tmp_path / name, sizes))
        for name, sizes in (
            ("a.csv", TOPICS),
            ("b.csv", {"money": 2}),
            ("c.csv", {"weather": 5, "sport": 1}),
        )
    )
    corpus = load(Path(train), val_dataset=validation, test_dataset=test, balance=True)
    assert [len(part) for part in vars(corpus.parts).values()] == [60, 2, 6]
    assert counts(corpus.parts.test) == {2: 5, 1: 1}
    assert corpus.file_sha256.count("+") == 2
    write_topics(tmp_path / "b.csv", {"money": 2, "chess": 1})
    with pytest.raises(DataError, match=r'b\.csv: the class "chess" is not in the training file'):
        load(Path(train), val_dataset=validation, test_dataset=test)


def rows_of(content: bytes, name: str = "a.csv", columns: tuple[str, ...] = ("Label", "Text")):
    Path(name).write_bytes(content)
    return list(read_columns(Path(name), columns))


@pytest.mark.parametrize(
    "content",
    [
        b"Label,Text\nham,hello\nspam,win\n",
        b"\xef\xbb\xbfLabel,Text\nham,hello\nspam,win\n",
        b"Label,Text\r\nham,hello\r\nspam,win",
        b'"Label","Text"\n"ham","hello"\n\n"spam","win"\n',
        b" Label , Text \nham,hello\nspam,win\n",
        b"Text,more,Label\nhello,,ham\nwin,1,spam\n",
    ],
)
def test_ways_to_write_the_same(content: bytes) -> None:
    assert rows_of(content) == [["ham", "hello"], ["spam", "win"]]
    if b'"' not in content and b"Text,more" not in content:
        assert rows_of(content.replace(b",", b"\t"), "a.tsv") == rows_of(content)
        assert rows_of(content.replace(b",", b"\t"), "a") == rows_of(content)


def test_what_a_field_may_hold() -> None:
    long = "x" * 1_000_000
    texts = ["=1+1", "a,b", 'say ""hi""', "two\nlines", "NA", "", "\u202eé🙂", long]
    content = "Label,Text\n" + "".join(f'ham,"{text}"\n' for text in texts)
    expected = [text.replace('""', '"') for text in texts]
    assert [text for _, text in rows_of(content.encode())] == expected


def test_columns_by_number_need_no_names() -> None:
    assert rows_of(b"ham\thello\nspam\twin\n", "a", ("1", "2")) == [
        ["ham", "hello"],
        ["spam", "win"],
    ]
    assert rows_of(b"a,b\n", columns=("2", "1")) == [["b", "a"]]


FAULTS = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "no such column": (b"label,Text\nham,a\n", 'has 0 columns "Label"; .* names "label", "Text"'),
    "column twice": (b"Label,Label,Text\nham,ham,a\n", 'has 2 columns "Label"'),
    "short row": (b"Label,Text\nham,a\nham\n", "line 3: 1 fields"),
    "long row": (b"Label,Text\nham,a, b\n", "line 2: 3 fields.*needs quotes"),
    "latin-1": ("Label,Text\nham,café\n".encode("latin-1"), "not UTF-8.*0xe9"),
    "utf-16": ("Label,Text\nham,a\n".encode("utf-16"), "not UTF-8"),
    "NUL": (b"Label,Text\nham,a\0b\n", "NUL"),
    "open quote": (b'Label,Text\nham,"a\nham,b\n', "opened and never closed"),
    "text behind a quote": (b'Label,Text\nham,"a"b\n', "after line 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_named(fault: str) -> None:
    content, message = FAULTS[fault]
    with pytest.raises(DataError, match=rf"(?s)^a\.csv.*{message}"):
        rows_of(content)


def test_a_column_number_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no column 3: its rows have 2 fields"):
        rows_of(b"a,b\n", columns=("1", "3"))
    with pytest.raises(DataError, match="no column 0"):
        rows_of(b"a,b\n", columns=("0", "1"))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"a": 5}, "has 1 classes"),
        ({}, "has 0 classes"),
        ({"a": 5, "b": 2}, 'has 2 texts of the class "b"'),
        ({chr(97 + i): 3 for i in range(20)}, None),
    ],
)
def test_classes_that_are_too_small(
    sizes: dict[str, int], message: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    write_topics(path, sizes) if sizes else path.write_text("Label,Text\n")
    if message:
        with pytest.raises(DataError, match=message):
            load(path)
    else:
        assert sum(len(part) for part in vars(load(path).parts).values()) == 60


def test_each_part_has_each_class(tmp_path: Path) -> None:
    for n_rare in range(3, 9):
        path = write_topics(tmp_path / "a.csv", {"common": 60, "rare": n_rare})
        for part in vars(load(path).parts).values():
            assert set(part["Label"]) == {0, 1}


def test_a_split_that_is_impossible_is_explained(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "a.csv", {"a": 30, "b": 3})
    with pytest.raises(DataError, match=r"nothing of its smallest class \(3 texts\) is left"):
        load(path, test_fraction=0.6, val_fraction=0.3)


def test_blank_lines() -> None:
    assert rows_of(b"Text\na\n\nb\n", columns=("Text",)) == [["a"], [""], ["b"]]
    assert rows_of(b"a\n\nb\n", columns=("1",)) == [["a"], [""], ["b"]]


# ---------------------------------------------------------------- whole runs

OWN = ["--weights", "random", "--model_size", "gpt2-tiny (3M)", "--max_steps", "3"]


@pytest.fixture
def bytes_for_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No vocabulary is needed: bytes are tokens."""
    from demo_data import byte_encoding

    monkeypatch.setattr("experiment.gpt2_encoding", lambda *_: byte_encoding())


@pytest.mark.usefixtures("bytes_for_tokens")
def test_a_run_on_own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv")
    flags = ["--dataset", str(path), *OWN, "--output_dir", str(tmp_path / "runs")]
    assert main([*flags, "--batch_size", "4"]) == 0
    printed = capsys.readouterr().out
    (record,) = read_records(tmp_path / "runs")
    assert record.result["data"]["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert printed.splitlines() == "\n".join(record.lines).splitlines()
    table = record.predictions
    metrics = record.result["test"]
    assert [part["label"] for part in metrics["classes"]] == ["money", "sport", "weather"]
    confusion = pd.crosstab(table["label"], table["prediction"])
    confusion = confusion.reindex(index=range(3), columns=range(3), fill_value=0).to_numpy()
    assert metrics["confusion"] == confusion.tolist()
    recalls = [confusion[i, i] / confusion[i].sum() for i in range(3)]
    assert metrics["balanced_accuracy"] == pytest.approx(sum(recalls) / 3)
    for i, part in enumerate(metrics["classes"]):
        assert part["texts"] == confusion[i].sum()
        assert part["recall"] == pytest.approx(recalls[i])
        predicted = confusion[:, i].sum()
        assert part["precision"] == pytest.approx(confusion[i, i] / max(1, predicted))
    assert f"Test balanced accuracy: {100 * sum(recalls) / 3:.2f}%" in printed
    assert (table["probability"] >= 1 / 3).all()


@pytest.mark.usefixtures("bytes_for_tokens")
def test_every_row_works_on_own_data(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "a.tsv", separator="\t")
    rows = ["--rows", "1-4,10,11,13-19", "--context_length", "20"]
    flags = ["--dataset", str(path), *OWN, "--output_dir", str(tmp_path / "runs"), *rows]
    assert main(flags) == 0
    page = (tmp_path / "runs" / "report.md").read_text()
    assert "Data: a.tsv" in page
    assert "as published" not in page.split("## By class")[0]
    by_class = page.split("\n## By class")[1].split("\n## ")[0]
    records = read_records(tmp_path / "runs")
    assert by_class.count("\n### ") == len(records)
    lines = set(by_class.splitlines())
    for record in records:
        metrics = record.result["test"]
        assert any(f" | {100 * metrics['balanced_accuracy']:.2f} |" in line for line in lines)
        for part in metrics["classes"]:
            figures = f"{100 * part['precision']:.2f} | {100 * part['recall']:.2f}"
            assert f"| {part['label']} | {part['texts']} | {figures} |" in lines


@pytest.mark.usefixtures("bytes_for_tokens")
def test_a_changed_file_is_not_done(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv")
    flags = ["--dataset", str(path), *OWN, "--output_dir", str(tmp_path / "runs"), "--resume"]
    assert main(flags) == 0
    assert main(flags) == 0
    assert "complete already" in capsys.readouterr().err
    write_topics(path, {**TOPICS, "weather": 21})
    assert main(flags) == 0
    err = capsys.readouterr().err
    assert "have changed since" in err
    assert "complete already" not in err


def test_faults_of_own_data_have_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Label,Text\nham,hello\n")
    assert main(["--dataset", str(path), *OWN]) == 1
    assert "nothing to tell apart" in capsys.readouterr().err


def test_checksum_of_a_file_that_has_gone(tmp_path: Path) -> None:
    config = replace(config_from_flags([]), dataset=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        own_data.checksum_files(config)
