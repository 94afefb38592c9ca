import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import config_from_flags, small_gpt2_encoding

from ablation.config.options import ExperimentConfig
from ablation.data import own_data, text_files
from ablation.data.own_data import load_own_corpus
from ablation.data.text_files import read_rows
from ablation.sweeps.records import read_records
from ablation.system.errors import ConfigError, DataError
from additional_experiments import main
from data_utils import Corpus

pytestmark = pytest.mark.usefixtures("plain_pictures")

TESTED = ["money news, number 20", "weather news, number 0", "sport news, number 29"]
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
    assert corpus.class_names == ("money", "sport", "weather")
    assert counts(corpus.parts.test) == {0: 6, 1: 8, 2: 4}
    assert counts(corpus.parts.validation) == {0: 3, 1: 4, 2: 2}
    assert counts(corpus.parts.train) == {0: 21, 1: 28, 2: 14}
    every = pd.concat(vars(corpus.parts).values())
    assert sorted(every["Text"]) == sorted(pd.read_csv(path)["Text"])
    for text, label in zip(every["Text"], every["Label"], strict=True):
        assert text.startswith(corpus.class_names[label])
    again = load(path, seed=7)
    assert again.parts.train.equals(corpus.parts.train), "the split never follows --seed"
    assert corpus.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(load(path, val_fraction=0.2, test_fraction=0.5).parts.test) == 45


def test_the_split_is_this_one(tmp_path: Path) -> None:
    """The seed of the split and its order, worked out anew: records of years rest on it."""
    path = write_topics(tmp_path / "a.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    shuffled = [rows[i] for i in np.random.RandomState(123).permutation(len(rows))]
    expected: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: Counter[str] = Counter()
    for row in shuffled:
        n = TOPICS[row["Label"]]
        place = seen[row["Label"]]
        part = "test" if place < n / 5 else "validation" if place < n / 5 + n / 10 else "train"
        expected[part].append(row["Text"])
        seen[row["Label"]] += 1
    parts = vars(load(path).parts)
    assert {name: part["Text"].tolist() for name, part in parts.items()} == expected
    assert expected["test"][:3] == TESTED
    lines = path.read_text().splitlines()
    for part in parts.values():
        for row in part.itertuples():
            assert f",{row.Text}," in lines[row.Line - 1].replace('"', "")


def test_balance_undersamples_training_only(tmp_path: Path) -> None:
    path = write_topics(tmp_path / "a.csv")
    plain, balanced = load(path).parts, load(path, balance=True).parts
    assert counts(balanced.train) == {0: 14, 1: 14, 2: 14}
    assert set(balanced.train["Text"]) < set(plain.train["Text"])
    assert balanced.train["Text"].is_unique
    assert balanced.validation.equals(plain.validation)
    assert balanced.test.equals(plain.test)
    test = write_topics(tmp_path / "b.csv", {"sport": 7, "money": 2})
    two = load(path, balance=True, test_dataset=str(test)).parts
    assert counts(two.train) == {0: 18, 1: 18, 2: 18}
    assert counts(two.validation) == {0: 3, 1: 4, 2: 2}
    assert counts(two.test) == {1: 7, 0: 2}


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
    with pytest.raises(
        DataError, match=r'b\.csv: the class "chess" is not in the training file.* out'
    ):
        load(Path(train), val_dataset=validation, test_dataset=test)


def test_two_files_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv", {"sport": 20, "money": 2})
    other = write_topics(tmp_path / "b.csv", {"money": 30})
    corpus = load(path, test_dataset=str(other), val_fraction=0.25)
    assert [len(part) for part in vars(corpus.parts).values()] == [16, 6, 30]
    assert counts(corpus.parts.validation) == {1: 5, 0: 1}, "and one of the class of two"
    taken = [*corpus.parts.train["Text"], *corpus.parts.validation["Text"]]
    assert sorted(taken) == sorted(pd.read_csv(path)["Text"])
    files = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, other)]
    assert corpus.file_sha256 == "+".join(files)
    corpus = load(path, val_dataset=str(other), test_fraction=0.5)
    assert [len(part) for part in vars(corpus.parts).values()] == [11, 30, 11]
    assert corpus.parts.validation["Line"].tolist() == list(range(2, 32))
    with pytest.raises(DataError, match=r"with --val_fraction 0\.9 nothing.*\(2 texts\)"):
        load(path, test_dataset=str(other), val_fraction=0.9)


def test_the_same_rows_in_two_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv", {"sport": 20, "money": 9})
    load(path, test_dataset=str(path))
    assert "29 of the 29 rows of" in caplog.text
    assert "hold the same" in caplog.text
    caplog.clear()
    other = write_topics(tmp_path / "b.csv", {"sport": 3, "money": 1, "x": 0})
    with open(other, "a") as file:
        file.write("9,new,money\n")
    load(path, val_dataset=str(other), test_dataset=str(path))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    numbers = ["4 of the 5", "29 of the 29", "4 of the 29"]
    assert [text.split(" rows of ")[0] for text in warnings] == numbers


# ---------------------------------------------------------------- nothing is guessed


def write(path: Path, rows: Sequence[tuple[str, str]], names: bool = True) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("Label", "Text")] * names + list(rows))
    return path


FINE = [("ham", "see you"), ("spam", "win")] * 5


@pytest.mark.parametrize("value", ["", " \t ", "NA", " null "])
def test_missing_labels_and_texts(
    value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = [*FINE, (value, "a"), ("ham", value), ("ham", "b"), (value, value)]
    path = write(tmp_path / "a.csv", rows)
    with pytest.raises(
        DataError, match="of 14 rows, 2 lack a label and 2 a text, first in line 12, 13, 15"
    ):
        load(path)
    corpus = load(path, drop_incomplete=True)
    assert corpus.class_names == ("ham", "spam")
    assert sum(len(part) for part in vars(corpus.parts).values()) == 11
    assert "3 of 14 rows are left out" in caplog.text


def test_what_pandas_takes_for_missing_is_missing(tmp_path: Path) -> None:
    values = [*text_files.MISSING, "na", "none", "0", "-", "nil"]
    (tmp_path / "a").write_text("x,y\n" + "".join(f'"{value}",1\n' for value in values))
    missing = pd.read_csv(tmp_path / "a")["x"].isna()
    assert set(pd.Series(values)[missing]) == text_files.MISSING


def test_labels_lose_their_spaces_and_alike_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(" ham", "a"), ("ham\u00a0", "b"), ("ham", "c"), ("very bad", "d"), ("VeryBad", "e")]
    corpus = load(write(tmp_path / "a.csv", rows * 3))
    assert corpus.class_names == ("VeryBad", "ham", "very bad")
    assert '"very bad" and "VeryBad" differ only in case or spaces' in caplog.text
    rows = [("1", "a"), ("01", "b"), ("1.0", "c"), ("-1", "d"), ("1.5", "e"), ("1a", "f")]
    assert len(load(write(tmp_path / "a.csv", rows * 3)).class_names) == 6
    assert '"1" and "01" and "1.0" differ only in case or spaces, or are one number' in caplog.text
    assert caplog.text.count("differ only") == 2
    caplog.clear()
    load(write(tmp_path / "a.csv", FINE))
    assert "differ" not in caplog.text


def test_whole_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    long = "1" + "0" * 5000
    for labels in (
        [str(i) for i in range(12)],
        ["-10", "-2", "0", "+3", "20", long],
        ["1", "01", "2", "10"],
        ["0.0", "1.0", "2.0", "10.0"],  # as pandas writes them beside missing ones
    ):
        expected = ["01", "1", "2", "10"] if "01" in labels else labels
        rows = [(label, f"text {label[:20]}") for label in sorted(labels)] * 3
        corpus = load(write(tmp_path / "a.csv", rows))
        assert list(corpus.class_names) == expected
        for part in vars(corpus.parts).values():
            for row in part.itertuples():
                assert row.Text == f"text {expected[row.Label][:20]}"
    names = ["1", "10", "2", "a"]
    assert load(write(tmp_path / "a.csv", [(n, "x") for n in names] * 3)).class_names == tuple(
        names
    )


def test_ignore_index_names_its_class(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    labels = ("0", "2", "10")
    own_data.require_ignored_class(ExperimentConfig(), labels)
    assert caplog.text == ""
    own_data.require_ignored_class(ExperimentConfig(ignore_index=2), labels)
    assert 'leaves out the class "10"' in caplog.text
    own_data.require_ignored_class(ExperimentConfig(ignore_index=50256), labels)
    assert "nothing is left out" in caplog.text, "as row 18 has it"
    for number in (3, 10, -1):
        with pytest.raises(ConfigError, match=f'--ignore_index {number}: .*2 is "10"'):
            own_data.require_ignored_class(ExperimentConfig(ignore_index=number), labels)


BY_POSITION = {"label_column": "1", "text_column": "2"}


def test_a_line_of_names_that_is_read_as_a_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", FINE)
    parts = [str(write(tmp_path / name, FINE[:4])) for name in ("b.csv", "c.csv")]
    files = dict(zip(("val_dataset", "test_dataset"), parts, strict=True))
    for more in ({}, files, {"test_dataset": parts[0]}):
        with pytest.raises(
            DataError, match=r'line 1: "Label" seems to be the name of a column.*--header yes'
        ):
            load(path, **BY_POSITION, **more)
        corpus = load(path, **BY_POSITION, **more, header="yes")
        assert corpus.class_names == ("ham", "spam")
    corpus = load(path, **BY_POSITION, **files, header="no")
    assert corpus.class_names == ("Label", "ham", "spam")
    nameless = write(tmp_path / "d.csv", FINE, names=False)
    with pytest.raises(DataError, match=r'b\.csv, line 1: "Label" seems'):
        load(nameless, **BY_POSITION, **files)
    # A name that is a label, too: then all files begin with it.
    for file in (path, *map(Path, parts)):
        file.write_text(file.read_text().replace("Label", "ham"))
    with pytest.raises(DataError, match='line 1: "ham" seems to be'):
        load(path, **BY_POSITION, **files)
    assert load(path, **BY_POSITION, **files, header="no").class_names == ("ham", "spam")


def test_files_without_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [("rare", "x"), *FINE], names=False)
    with pytest.raises(DataError, match='"rare" seems to be the name'):
        load(path, **BY_POSITION, min_texts_per_class=3)
    corpus = load(path, **BY_POSITION, min_texts_per_class=3, header="no")
    assert corpus.class_names == ("ham", "spam")
    few = [write(tmp_path / f"{i}.csv", [("a", "x"), ("b", "y")], names=False) for i in "12"]
    few[1].write_text("b,z\n")
    parts = dict.fromkeys(("val_dataset", "test_dataset"), str(few[1]))
    assert load(few[0], **BY_POSITION, **parts).class_names == ("a", "b"), (
        "as every label is single"
    )
    path = write(tmp_path / "b.csv", FINE, names=False)
    assert sum(len(p) for p in vars(load(path, **BY_POSITION).parts).values()) == 10
    same = load(path, **BY_POSITION, test_dataset=str(path))
    assert len(same.parts.test) == 10, "one file twice begins the same without names"


def test_rare_classes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv", {"a": 9, "b": 2, "c": 8, "d": 1})
    with pytest.raises(
        DataError, match=r"2 of 4 classes have fewer than 3.*--min_texts_per_class 3"
    ):
        load(path)
    caplog.set_level("INFO")
    assert load(path, min_texts_per_class=3).class_names == ("a", "c")
    assert (
        '2 classes with fewer than 3 texts are left out, and their 3 texts: "b", "d"' in caplog.text
    )
    test = write_topics(tmp_path / "b.csv", {"a": 3, "b": 5})
    assert counts(load(path, min_texts_per_class=3, test_dataset=str(test)).parts.test) == {0: 3}
    with pytest.raises(DataError, match="1 of 4 classes have fewer than 2: too few for 2 parts"):
        load(path, test_dataset=str(test))


def test_rows_that_a_quote_merged(tmp_path: Path) -> None:
    stray = 'ham,"Never again\nspam,lovely food\n\nham,the so called chef"\n'
    whole = 'ham,"Dear Sir\nspam food, I say"\n'
    path = tmp_path / "a.csv"
    path.write_text("Label,Text\n" + "ham,a\nspam,b\n" * 5 + whole + stray)
    with pytest.raises(DataError, match=r"a\.csv, line 14: a quote opens there"):
        load(path)
    corpus = load(path, quoting="csv")
    assert sum(len(part) for part in vars(corpus.parts).values()) == 12
    commas = stray.replace("lovely food", "lovely food, I say").replace("Never", "No, never")
    path.write_text("Label,Text\n" + "ham,a\nspam,b\n" * 5 + whole + commas)
    with pytest.raises(DataError, match=r"a\.csv, line 14: a quote opens there"):
        load(path)
    path.write_text("Text,Label\n" + "a,ham\nb,spam\n" * 5 + 'a,"ham\nb,spam\nc,ham"\n')
    with pytest.raises(DataError, match=r"line 12: a quote opens there"):
        load(path)
    path.write_text("Label,Text\n" + "ham,a\nspam,b\n" * 5 + whole)
    assert "Dear Sir\nspam food, I say" in set(pd.concat(vars(load(path).parts).values())["Text"])


def rows_of(content: bytes, name: str = "a.csv", columns: tuple[str, ...] = ("Label", "Text")):
    Path(name).write_bytes(content)
    return [row.fields for row in read_rows(Path(name), columns)]


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
    "no such column": (b"label,Text\nham,a\n", 'has no column "Label"; it has "label", "Text"'),
    "column twice": (b"Label,Label,Text\nham,ham,a\n", 'has 2 columns "Label"'),
    "short row": (b"Label,Text\nham,a\nham\n", "line 3: 1 fields"),
    "long row": (b"Label,Text\nham,a, b\n", "line 2: 3 fields.*needs quotes"),
    "latin-1": ("Label,Text\nham,café\n".encode("latin-1"), "not UTF-8.*0xe9"),
    "utf-16": ("Label,Text\nham,a\n".encode("utf-16"), "not UTF-8"),
    "NUL": (b"Label,Text\nham,a\0b\n", "NUL"),
    "open quote": (b'Label,Text\nham,"a\nham,b\n', "opened and never closed"),
    "text behind a quote": (b'Label,Text\nham,a\nham,"a"b\n', "line 3: .*--quoting none"),
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
    from ablation.data.demo import byte_encoding

    monkeypatch.setattr("ablation.data.corpora.gpt2_encoding", lambda *_: byte_encoding())


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


@pytest.mark.slow
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
    assert by_class.count("\n**row ") == len(records)
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


@pytest.mark.slow
def test_spaces_without_end_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.data.corpora.gpt2_encoding", lambda *_: small_gpt2_encoding())
    path = write_topics(tmp_path / "a.csv")
    with open(path, "a") as file:
        file.writelines(f"9,{' ' * 10**6}{i},sport\n" for i in range(2))
    assert main(["--dataset", str(path), *OWN, "--output_dir", str(tmp_path / "runs")]) == 0
    (record,) = read_records(tmp_path / "runs")
    assert record.is_complete


def test_faults_of_own_data_have_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Label,Text\nham,hello\n")
    assert main(["--dataset", str(path), *OWN]) == 1
    assert "nothing to tell apart" in capsys.readouterr().err


@pytest.mark.usefixtures("bytes_for_tokens")
def test_ignore_index_on_own_data(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_topics(tmp_path / "a.csv")
    flags = ["--dataset", str(path), *OWN, "--output_dir", str(tmp_path / "runs"), "--ignore_index"]
    assert main([*flags, "2"]) == 0
    assert 'leaves out the class "weather"' in capsys.readouterr().err
    assert main([*flags, "3"]) == 2
    assert '--ignore_index 3: there is no such class; 0 is "money"' in capsys.readouterr().err


def test_checksum_of_a_file_that_has_gone(tmp_path: Path) -> None:
    config = replace(config_from_flags([]), dataset=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        own_data.checksum_files(config)
