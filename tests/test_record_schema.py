"""Records with every entry damaged in every way: each is named and skipped, or means the same."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import make_result

from errors import RecordError
from experiment import describe_data, load_corpus
from experiment_rows import ROWS, configure
from record_schema import check_result
from run_records import (
    RESULT_NAME,
    read_record,
    write_complete,
)
from runs import Run

RESULTS = Path(__file__).parent.parent / "results"
HELP_DESK = {
    "dataset": str(Path(__file__).parent.parent / "examples" / "help_desk.csv"),
    "text_column": "message",
    "label_column": "topic",
}
GIVEN = {"weights": "random", "model_size": "gpt2-tiny (3M)"}
WRONG = [
    None,
    True,
    "x",
    "123",
    -1,
    0.5,
    10**400,
    float("nan"),
    float("inf"),
    [],
    {},
    [1],
    {"a": 1},
]
# What only people read, and what another value makes no other run of: a text or number will do.
FREE = ("commit", "device", "versions", "error", "data.name", "data.split_sha256")
CIRCUMSTANCES = ("weights_dir", "data_dir", "feature_memory", "no_feature_reuse", "offline")
FIGURES = ("seconds", "peak_memory_bytes", "history.losses", "data.file_sha256", "overrides")


def write_own(folder: Path, seed: int = 123, row: int = 1) -> Path:
    """The record of a run on texts of one's own, with three classes."""
    run = Run(replace(configure(ROWS[row], {**GIVEN, **HELP_DESK}), seed=seed), GIVEN | HELP_DESK)
    corpus = load_corpus(run.config)
    labels = corpus.parts.test["Label"].tolist()
    predicted = [(label + (i % 5 == 0)) % 3 for i, label in enumerate(labels)]
    result = make_result(labels, predicted, labels_of_classes=corpus.labels)
    return write_complete(folder, run, result, describe_data(corpus))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("whole"))


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT_NAME).read_text())


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """Every entry and item, containers before what they hold; of long lists the first two."""
    keys = content if isinstance(content, dict) else range(min(2, len(content)))
    for key in keys:
        yield (*place, key)
        if isinstance(content[key], dict | list):
            yield from places(content[key], (*place, key))


def damages(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content with each entry lost, and with each entry of another value."""
    for *path, last in places(content):
        name = ".".join(map(str, (*path, last)))
        for wrong in ("lost", *WRONG):
            damaged = copy.deepcopy(content)
            parent = damaged
            for key in path:
                parent = parent[key]
            if wrong == "lost":
                del parent[last]
            elif repr(parent[last]) == repr(wrong):
                continue
            else:
                parent[last] = wrong
            yield f"{name}: {wrong!r:.20}", damaged


def is_refused(content: dict[str, Any], folder: Path) -> bool:
    try:
        check_result(content)
    except ValueError:
        return True
    (folder / RESULT_NAME).write_text(json.dumps(content))
    try:
        read_record(folder)
    except RecordError:
        return True
    return False


def test_probe(whole: Path) -> None:
    content = content_of(whole)
    for name, damaged in damages(content):
        if not is_refused(damaged, whole):
            print("OK", name)
    (whole / RESULT_NAME).write_text(json.dumps(content))
    print(sum(1 for _ in damages(content)))
