"""Records with every entry damaged in every way: each is named and skipped, or means the same."""

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_result, sizes_of

from ablation.config.identity import identify_data
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.data.corpora import load_corpus
from ablation.reports.folder_report import write_report
from ablation.sweeps import sweep
from ablation.sweeps.record_schema import check_result
from ablation.sweeps.records import (
    PREDICTIONS_NAME,
    RESULT_NAME,
    find_complete,
    read_record,
    read_records,
    write_complete,
    write_incomplete,
)
from ablation.system.errors import RecordError
from ablation.system.machine import describe_machine
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("plain_pictures")

ROOT = Path(__file__).parent.parent
GIVEN = {
    "weights": "random",
    "model_size": "gpt2-tiny (3M)",
    "dataset": str(ROOT / "examples" / "help_desk.csv"),
    "text_column": "message",
    "label_column": "topic",
}
CPU = torch.device("cpu")
WRONG = [
    None,
    True,
    "x",
    "123",
    -1,
    0.5,
    2**52,
    10**400,
    1e400,
    float("nan"),
    [],
    {},
    [1],
    {"a": 1},
]


def make_run(row: int = 1, seed: int = 5) -> Run:
    return Run(replace(configure(ROWS[row], GIVEN), seed=seed), GIVEN)


def write_run(folder: Path, run: Run) -> Path:
    """The record of a run on texts of one's own, with three classes."""
    corpus = load_corpus(run.config)
    labels = corpus.parts.test["Label"].tolist()
    predicted = [(label + (i % 5 == 0)) % 3 for i, label in enumerate(labels)]
    result = make_result(
        labels, predicted, **sizes_of(corpus), labels_of_classes=corpus.class_names
    )
    base = {"weights": "random", "seed": run.config.seed, "torch": "2.13.0"}
    result = replace(result, kept={"model": "0" * 64}, weights=base)
    result.history.epoch_accuracies.append((result.accuracy.train, result.accuracy.validation))
    return write_complete(folder, run, result, identify_data(corpus))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a record; who changes it takes a copy."""
    return write_run(tmp_path_factory.mktemp("whole"), make_run(seed=5))


@pytest.fixture(scope="module")
def content(whole: Path) -> dict[str, Any]:
    return json.loads((whole / RESULT_NAME).read_text())


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """Every entry and item, containers before what they hold; of lists the first two."""
    keys = content if isinstance(content, dict) else range(min(2, len(content)))
    for key in keys:
        yield (*place, key)
        if isinstance(content[key], dict | list):
            yield from places(content[key], (*place, key))


def change(content: dict[str, Any], place: tuple, value: Any) -> dict[str, Any]:
    """The content with another value at a place; ``...`` leaves the entry out."""
    *path, last = place
    changed = copy.deepcopy(content)
    parent = changed
    for key in path:
        parent = parent[key]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return changed


def damages(content: dict[str, Any]) -> Iterator[tuple[tuple, Any, dict[str, Any]]]:
    """Each place, each wrong value for it, and the content with it."""
    for place in places(content):
        for value in (..., *WRONG):
            changed = change(content, place, value)
            if repr(changed) != repr(content):
                yield place, value, changed


def is_read(folder: Path, content: dict[str, Any]) -> bool:
    (folder / RESULT_NAME).write_text(json.dumps(content))
    try:
        return read_record(folder).is_complete
    except RecordError:
        return False


def kind_of(value: Any) -> str:
    if value is ...:
        return "lost"
    if isinstance(value, str):
        return "text"
    return json.dumps(value)


# What may be read all the same: entries that old records lack, what only people read, and figures
# that nothing else of the record says.
TEXT = {"text"}
READABLE = {
    "commit": {"lost", "null", *TEXT},
    "device": {"{}", '{"a": 1}'},
    r"device\.(type|name)": {"lost", *TEXT},
    r"device\.(threads|cores|processes)": {"lost", "null"},
    "versions": {"{}"},
    r"versions\.\w+": {"lost", *TEXT},
    r"data\.name": TEXT,
    "table": {"lost", *TEXT},  # its title; old records lack it
    "peak_memory_bytes": {"lost"},
    r"seconds\.(features|training)": {"0.5"},
    r"seconds\.evaluation": {"lost", "0.5"},
    "states": {"lost"},
    r"states\.(found|computed)": {str(2**52)},
    r"test\.classes\.\d\.label": TEXT,  # held to the data by a report
    r"history\.losses\.1": {"lost"},  # as if training had ended before
    r"history\.epoch_accuracies": {"[]"},
    r"history\.epoch_accuracies\.0": {"lost"},
    r"history\.losses\.\d\.(train|validation)": {"0.5", str(2**52)},
    "kept": {"lost", "{}", '{"a": 1}'},
    "not_kept": {"lost", '{"a": 1}'},
    "weights": {"lost"},  # as in old records
    r"weights\.(seed|torch)": {"lost"},
    r"weights\.torch": {"lost", *TEXT},
    r"test\.macro_f1": {"lost"},
    r"kept\.model": {"lost"},
    "overrides": {"null", "{}"},
    r"overrides\.\w+": {"lost"},
    # Circumstances.
    r"flags\.(no_feature_reuse|offline)": {"lost", "true"},
    r"flags\.feature_memory": {"lost", "0.5"},
    r"flags\.feature_store_gb": {"lost", "0.5"},
    r"flags\.(data_dir|weights_dir|feature_store)": {"lost", *TEXT},
    # Old records lack what was no option then.
    rf"flags\.(?!({'|'.join(GIVEN)}|seed)$)\w+": {"lost"},
}


def may_be_read(place: tuple, value: Any, readable: dict[str, set[str]] = READABLE) -> bool:
    name = ".".join(map(str, place))
    return any(
        re.fullmatch(pattern, name) and kind_of(value) in kinds
        for pattern, kinds in readable.items()
    )


def test_every_entry_damaged_in_every_way(
    whole: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / whole.name)
    assert is_read(folder, content)
    found = [(place, value, is_read(folder, text)) for place, value, text in damages(content)]
    assert len(found) > 1000
    assert [found for found in found if found[2] != may_be_read(*found[:2])] == []


def test_every_entry_of_a_failed_run_damaged(tmp_path: Path) -> None:
    write_incomplete(tmp_path, make_run(), "failed", "no luck", describe_machine(CPU))
    (record,) = read_records(tmp_path)
    readable = {**READABLE, "error": TEXT, "device": {"lost", *READABLE["device"]}}
    readable |= {"versions": {"lost", "{}"}}
    for place, value, text in damages(record.result):
        try:
            check_result(text)
        except ValueError:
            assert not may_be_read(place, value, readable), place
        else:
            assert may_be_read(place, value, readable), place


def test_entries_of_other_versions_are_let_through(content: dict[str, Any]) -> None:
    for place in ("device", "data", "seconds", "accuracy", "test", "history", "kept"):
        check_result(change(content, (place, "later"), {"of": ["any", None]}))
    for place in (("accuracy", "train"), ("test", "classes", 0), ("history", "losses", 0)):
        check_result(change(content, (*place, "later"), 1e400))
    check_result(change(content, ("later",), [1e400]))
    with pytest.raises(ValueError, match=r"weights\.file_sha256 is 5, not a SHA-256"):
        check_result(change(content, ("weights",), {"weights": "random", "file_sha256": 5}))
    with pytest.raises(ValueError, match=r"weights\.seed is 6, and flags say otherwise"):
        check_result(change(content, ("weights", "seed"), 6))
    with pytest.raises(ValueError, match=r"weights\.weights is 'pretrained', and flags say"):
        check_result(change(content, ("weights", "weights"), "pretrained"))
    check_result(change(content, ("test", "macro_f1"), 0.5))
    with pytest.raises(ValueError, match=r"test\.macro_f1 is 1\.5, not a number from 0 to 1"):
        check_result(change(content, ("test", "macro_f1"), 1.5))


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("seed",), 6, "seed is 6, and flags.seed 5"),
        (("row",), 2, "row is 2, and its flags are those of row None"),
        (("flags", "rang"), 1, "flags.rang is 1, not a flag of this version"),
        (("flags", "batch_size"), 9, "command is .*, and flags say otherwise"),
        (("flags", "weights"), "pretrained", "command is .*, and flags say otherwise"),
        (("flags", "batch_size"), 0, "--batch_size 0: not a whole number of at least 1"),
        (("flags", "no_padding"), True, "--no_padding with --batch_size 8"),
        (("flags", "dataset"), "a\0b", "flags.dataset is"),
        (("overrides", "lora_rank"), -1, "--lora_rank -1: not a whole number"),
        (("overrides", "lora_alpha"), 10**400, "--lora_alpha 10"),
        (("command",), "python additional_experiments.py", "command is .*flags say otherwise"),
        (("accuracy", "train", "correct"), 2000, "2000 of 168 texts are correct"),
        (("accuracy", "test", "correct"), 10, "do not add up to accuracy.test"),
        (("accuracy", "test", "total"), 49, "do not count from 0 to 48"),
        (("parameters", "trained"), 4, "more parameters are trained"),
        (("history", "losses", 1, "step"), 49, "not the multiples of 50"),
        (("history", "losses", 0, "epoch"), 10**9, "more than 5 epochs"),
        (("test", "confusion", 0, 0), 3, "do not add up to test.confusion"),
        (("test", "classes", 0, "recall"), 0.99, "do not add up to test.classes.recall"),
        (("test", "balanced_accuracy"), 0.9, "do not add up to test.balanced_accuracy"),
        (("test", "classes"), [], "not a list of the right length"),
        (("seconds", "training"), -1, "seconds.training is -1, not a number from 0"),
    ],
)
def test_contradictions_are_named(
    place: tuple, value: Any, reason: str, whole: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy")
    (folder / RESULT_NAME).write_text(json.dumps(change(content, place, value)))
    with pytest.raises(RecordError, match=f"copy is damaged .*{reason}"):
        read_record(folder)


def rewrite(change: Callable[[list[list[str]]], Any]) -> Callable[[bytes], bytes]:
    """Damage of the table of predictions, given and taken as rows of texts."""

    def damage(content: bytes) -> bytes:
        rows = [line.split(",") for line in content.decode().splitlines()]
        rows = change(rows) or rows
        return "".join(",".join(row) + "\n" for row in rows).encode()

    return damage


def put(line: int, column: int, text: str) -> Callable[[bytes], bytes]:
    def damage(rows: list[list[str]]) -> None:
        rows[line][column] = text

    return rewrite(damage)


WRONG_PREDICTIONS = {
    "one less": rewrite(lambda rows: rows[:-1]),
    "one more": rewrite(lambda rows: [*rows, ["48", "0", "0.5", "0"]]),
    "one twice": rewrite(lambda rows: [*rows, rows[-1]]),
    "empty": lambda _: b"",
    "names alone": rewrite(lambda rows: rows[:1]),
    "without names": rewrite(lambda rows: rows[1:]),
    "another name": put(0, 1, "labels"),
    "a column less": rewrite(lambda rows: [row[:3] for row in rows]),
    "a field too many": rewrite(lambda rows: [rows[0], *([*row, "1"] for row in rows[1:])]),
    "out of order": rewrite(lambda rows: [rows[0], rows[2], rows[1], *rows[3:]]),
    "a label that is none": put(1, 1, "3"),
    "a negative label": put(1, 1, "-1"),
    "a prediction that is none": put(1, 3, "7"),
    "a huge prediction": put(1, 3, "1" + "0" * 400),
    "half a prediction": put(1, 3, "0.5"),
    "NaN for a label": put(1, 1, "NaN"),
    "nothing for a label": put(1, 1, ""),
    "a text for a label": put(1, 1, "billing"),
    "NaN for a probability": put(1, 2, "NaN"),
    "infinity for a probability": put(1, 2, "inf"),
    "a probability above 1": put(1, 2, "1.01"),
    "a text for a probability": put(1, 2, "high"),
    "another class": put(1, 3, "2"),
    "not UTF-8": lambda content: content + b"\xff\xfe",
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "NUL": lambda content: content.replace(b"0", b"\0", 1),
    "a quote": lambda content: content.replace(b"\n", b'\n"', 1),
    "huge": lambda content: content + b"\n" * 100_000,
}


@pytest.mark.parametrize("damage", WRONG_PREDICTIONS)
def test_predictions_that_match_their_checksum_and_nothing_else(
    damage: str, whole: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy")
    predictions = WRONG_PREDICTIONS[damage]((folder / PREDICTIONS_NAME).read_bytes())
    (folder / PREDICTIONS_NAME).write_bytes(predictions)
    sha256 = hashlib.sha256(predictions).hexdigest()
    assert not is_read(folder, change(content, ("predictions_sha256",), sha256))


def test_predictions_may_have_more_columns(
    whole: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy")
    add = rewrite(
        lambda rows: [[*row, "row" if i == 0 else str(7 * i)] for i, row in enumerate(rows)]
    )
    predictions = add((folder / PREDICTIONS_NAME).read_bytes())
    (folder / PREDICTIONS_NAME).write_bytes(predictions)
    sha256 = hashlib.sha256(predictions).hexdigest()
    assert is_read(folder, change(content, ("predictions_sha256",), sha256))


WRONG_FILES = {
    "no JSON": b"{",
    "an array": b"[1]",
    "NaN where nobody looks": b'{"status": "complete", "later": NaN}',
    "not UTF-8": b'{"status": "\xff"}',
    "too deep": b"[" * 100_000,
    "too many digits": b'{"status": ' + b"1" * 10_000 + b"}",
    "nothing": b"",
    "another status": b'{"status": ["complete"]}',
}


@pytest.mark.parametrize("damage", [*WRONG_FILES, "a folder", "a FIFO", "a loop", "huge"])
def test_files_that_are_no_results(damage: str, whole: Path, tmp_path: Path) -> None:
    path = shutil.copytree(whole, tmp_path / "copy") / RESULT_NAME
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a FIFO":
        os.mkfifo(path)
    elif damage == "a loop":
        path.symlink_to(path)
    elif damage == "huge":
        with open(path, "wb") as file:
            file.truncate(2**40)
    else:
        path.write_bytes(WRONG_FILES[damage])
    with pytest.raises(RecordError, match="copy"):
        read_record(path.parent)
    assert read_records(tmp_path) == []


# ---------------------------------------------------------------- beside whole records


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, whole: Path, content: dict[str, Any]) -> Path:
    """A folder of three whole records, of which one failed, and many damaged ones."""
    folder = tmp_path_factory.mktemp("crowd")
    write_run(folder, make_run(1))
    write_run(folder, make_run(2))
    write_incomplete(folder, make_run(3), "failed", "no luck")
    for i, (place, value, text) in enumerate(damages(content)):
        if i % 7 == 0 and not may_be_read(place, value):
            damaged = folder / f"damaged-{i}"
            damaged.mkdir()
            (damaged / RESULT_NAME).write_text(json.dumps(text))
            (damaged / PREDICTIONS_NAME).symlink_to(whole / PREDICTIONS_NAME)
    return folder


def test_a_report_beside_damaged_records_is_that_of_the_whole_ones(
    crowd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in crowd.glob("row-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    printed = write_report(tmp_path, tmp_path).text
    caplog.clear()
    assert write_report(crowd, crowd).text == printed.replace(str(tmp_path), str(crowd))
    # Commands to go on with name the folder; in Markdown, a line is not broken.
    page = (tmp_path / "report.md").read_text().replace(str(tmp_path), str(crowd))
    assert (crowd / "report.md").read_text() == page
    damaged = [path.name for path in crowd.glob("damaged-*")]
    assert len(damaged) > 150
    for name in damaged:
        assert f"{name} is damaged (" in caplog.text


def test_other_commands_beside_damaged_records(
    crowd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    first, second = sorted(path.name for path in crowd.glob("row-0[12]*"))
    damaged = next(crowd.glob("damaged-*")).name
    flags = [word for name, value in GIVEN.items() for word in (f"--{name}", value)]
    flags += ["--output_dir", str(crowd), "--seed", "5"]
    assert main(["--rows", "1-3", "--dry_run", *flags]) == 0
    assert "3 runs, 2 of them done" in capsys.readouterr().out
    assert main(["--compare", first, second, "--output_dir", str(crowd)]) == 0
    assert main(["--compare", first, damaged, "--output_dir", str(crowd)]) == 1
    assert f"{damaged} is damaged (" in capsys.readouterr().err
    ran = []
    monkeypatch.setattr(sweep, "run_and_record", lambda run, *_: ran.append(run))
    assert sweep.run_sweep([make_run(row) for row in (1, 2, 4)], crowd) == []
    assert ran == [make_run(4)]


def test_records_of_other_texts_do_not_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Each agrees with itself, and both name the same data."""
    data = {"name": "x", "split_sha256": "0" * 64}
    runs = [Run(ROWS[row].config) for row in (1, 2)]
    write_complete(tmp_path, runs[0], make_result([1, 0, 1], [1, 0, 1]), data)
    write_complete(tmp_path, runs[1], make_result([1, 0], [1, 0]), data)
    names = [run.name for run in runs]
    assert main(["--compare", *names, "--output_dir", str(tmp_path)]) == 1
    assert "one of the two is damaged" in capsys.readouterr().err


def test_a_damaged_run_is_run_again(whole: Path, content: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / whole.name)
    assert find_complete(tmp_path, make_run()).folder == folder
    assert not is_read(folder, change(content, ("seconds", "training"), float("nan")))
    assert find_complete(tmp_path, make_run()) is None
    assert write_run(tmp_path, make_run()) == folder
    assert find_complete(tmp_path, make_run())


@pytest.mark.parametrize(
    ("there", "instead"),
    [('"label": "billing"', '"label": "invoices"'), ('"total": 24', '"total": 25')],
    ids=["a class", "a count"],
)
def test_a_record_that_fits_itself_but_not_the_data(
    there: str, instead: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, make_run(1))
    other = write_run(tmp_path, make_run(2))
    path = other / RESULT_NAME
    assert there in path.read_text()
    path.write_text(path.read_text().replace(there, instead))
    assert read_record(other)
    write_report(tmp_path, tmp_path)
    assert f"Skipped: the record {other} is damaged (its texts or classes" in caplog.text
    assert "invoices" not in (tmp_path / "report.html").read_text()
