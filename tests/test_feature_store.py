"""The store of hidden states: the same numbers with, without and with part of it, whatever is wrong
with it."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import filelock
import pandas as pd
import pytest
import torch
from helpers import PATCHED, environment_without_network
from safetensors import safe_open
from safetensors.torch import save_file

from ablation.classifier.build import GPTClassifier, build_classifier
from ablation.config.identity import identify_weights
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions
from ablation.data.demo import byte_encoding
from ablation.data.sms import split_messages
from ablation.finetuning import feature_store, frozen_features
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.feature_store import FeatureStore
from ablation.finetuning.frozen_features import FrozenPrefix, cut_splits
from ablation.finetuning.shared_work import SharedWork
from ablation.finetuning.text_states import TOKEN, TextStates
from ablation.sweeps.cluster import for_nodes
from ablation.sweeps.records import read_records
from ablation.system import parallel
from additional_experiments import main
from data_utils import EncodedTexts, LabelledTexts, Splits, encode_splits
from gpt_model import GPTModel

TINY = ExperimentConfig(
    model_size="gpt2-tiny (3M)", weights="random", demo=True, batch_size=3, context_length=10
)


@pytest.fixture(autouse=True)
def everything_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little time it takes; a batch has two texts."""
    monkeypatch.setattr(feature_store, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(feature_store, "BYTES_PER_SECOND", 1e12)
    monkeypatch.setitem(frozen_features.TOKENS_PER_BATCH, "cpu", 20)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Texts and positions of each batch that the embedding sees, and of each that goes on from
    a later block."""
    seen, run_blocks = [], GPTClassifier.run_blocks

    def spy(
        self: GPTClassifier, inputs: torch.Tensor, start: int = 0, *others: object, **at: object
    ):
        if "at" not in at:
            seen.append((start, len(inputs)))
        return run_blocks(self, inputs, start, *others, **at)

    monkeypatch.setattr(GPTClassifier, "run_blocks", spy)
    return seen


@pytest.fixture(scope="module")
def splits(few_messages: pd.DataFrame) -> Splits[pd.DataFrame]:
    return split_messages(few_messages)


def states_of(
    config: ExperimentConfig, splits: Splits[pd.DataFrame], stored: bool = True
) -> tuple[Splits[LabelledTexts], FrozenPrefix]:
    """The states of one experiment, and the prefix that made them, in the store ``data/features``
    of the test's folder or without any."""
    classifier = build_classifier(config)
    texts = encode_splits(splits, byte_encoding(), config)
    prefix = FrozenPrefix([cut_splits(texts, classifier.reading)])
    store = FeatureStore.of(config, identify_weights(config, None), classifier) if stored else None
    needed = cut_splits(texts, classifier.reading)
    return prefix.states(classifier, needed, store=store), prefix


def assert_right(
    config: ExperimentConfig, splits: Splits[pd.DataFrame]
) -> tuple[Splits[LabelledTexts], FrozenPrefix]:
    """The states with a store, when they have been compared with those without."""
    found, prefix = states_of(config, splits)
    expected, _ = states_of(config, splits, stored=False)
    for part, other in zip(vars(found).values(), vars(expected).values(), strict=True):
        everything = list(range(len(part)))
        torch.testing.assert_close(
            part.inputs(everything), other.inputs(everything), rtol=0, atol=1e-5
        )
    return found, prefix


def n_embedded(counted: list[tuple[int, int]]) -> int:
    return sum(n for start, n in counted if start == 0)


def pieces() -> list[Path]:
    return sorted(Path("data/features").glob("*/*.states"))


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---------------------------------------------------------------- what is found


def test_what_is_stored_is_not_computed(splits: Splits, counted: list) -> None:
    _, first = states_of(TINY, splits)
    n_texts = n_embedded(counted)
    assert n_texts > 20
    assert first.cost.n_found == 0
    counted.clear()
    _, again = states_of(TINY, splits)
    assert counted == []
    assert again.cost.n_found == first.cost.n_computed == 10 * n_texts
    assert again.cost.n_computed == 0
    assert 0 < again.cost.stored_seconds < first.cost.seconds
    assert_right(TINY, splits)


@pytest.mark.parametrize(
    "other",
    [
        {"trainable_token_pos": "first"},
        {"trainable_token_pos": "flexible"},
        {"no_padding": True, "batch_size": 1, "context_length": 8},
        {"average_embeddings": True, "trainable_token_pos": "flexible"},
        {"trainable_layers": "last_layer"},
        {"ignore_index": 1},
        {"learning_rate": 1e-3},
    ],
    ids=str,
)
def test_the_first_states_of_longer_texts_serve(other: dict, splits: Splits, counted: list) -> None:
    states_of(TINY, splits)
    counted.clear()
    states_of(replace(TINY, **other), splits)
    assert counted == []
    assert_right(replace(TINY, **other), splits)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 124},
        {"precision": "bf16"},
        {"disable_causal_mask": True},
        {"trainable_layers": "last_two_blocks"},
    ],
    ids=str,
)
def test_other_states_do_not_serve(other: dict, splits: Splits, counted: list) -> None:
    states_of(TINY, splits)
    n_texts = n_embedded(counted)
    counted.clear()
    states_of(replace(TINY, **other), splits)
    assert n_embedded(counted) == n_texts


def test_without_the_mask_a_beginning_is_another_text(splits: Splits, counted: list) -> None:
    unmasked = replace(TINY, disable_causal_mask=True, no_padding=True, batch_size=1)
    states_of(unmasked, splits)
    counted.clear()
    states_of(replace(unmasked, context_length=4), splits)
    assert n_embedded(counted) > 15
    assert_right(replace(unmasked, context_length=4), splits)


def test_other_weights_code_or_shapes_do_not_serve(
    splits: Splits, counted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of(TINY, splits)
    n_texts = n_embedded(counted)

    def computes_anew() -> bool:
        counted.clear()
        states_of(TINY, splits)
        return n_embedded(counted) == n_texts

    assert not computes_anew()
    init = GPTModel.__init__

    def other(self: GPTModel, *arguments: object) -> None:
        init(self, *arguments)
        if self.blocks[1].norm2.weight.device.type != "meta":
            self.blocks[1].norm2.weight.data[3] = 0.5

    monkeypatch.setattr(GPTModel, "__init__", other)
    assert computes_anew(), "one weight of a frozen block differs"
    monkeypatch.setattr(GPTModel, "__init__", init)
    monkeypatch.setattr("ablation.config.identity.COMPUTING_CODE", ["of another GELU"])
    assert computes_anew(), "the code that makes states differs"
    monkeypatch.setattr("ablation.config.identity.version", lambda name: "9.9")
    assert computes_anew(), "another PyTorch"


def test_states_of_fewer_blocks_are_taken_further(splits: Splits, counted: list) -> None:
    states_of(replace(TINY, trainable_layers="last_two_blocks"), splits)
    n_texts = n_embedded(counted)
    counted.clear()
    _, prefix = states_of(TINY, splits)
    assert {start for start, _ in counted} == {2}
    assert sum(n for _, n in counted) == n_texts
    assert prefix.cost.n_computed == 10 * n_texts
    assert_right(TINY, splits)


def test_a_data_set_that_grew_computes_what_is_new(splits: Splits, counted: list) -> None:
    states_of(TINY, splits)
    counted.clear()
    new = pd.DataFrame({"Label": [0, 1], "Text": ["quite a new one", "and another"]})
    grown = Splits(pd.concat([new, splits.train]), splits.validation, splits.test)
    states_of(TINY, grown)
    assert n_embedded(counted) == 2
    counted.clear()
    assert_right(TINY, grown)
    assert n_embedded(counted) > 20, "only the yardstick, without a store, computes"


def test_a_sweep_that_meets_stored_states_of_more_blocks(splits: Splits) -> None:
    """Row 4 takes two blocks, row 1 then one more; what row 1 stored earlier serves."""
    states_of(TINY, splits)
    two = replace(TINY, trainable_layers="last_two_blocks")
    classifiers = [build_classifier(config) for config in (two, TINY)]
    texts = encode_splits(splits, byte_encoding(), TINY)
    prefix = FrozenPrefix([cut_splits(texts, c.reading) for c in classifiers])
    for config, classifier in zip((two, TINY), classifiers, strict=True):
        store = FeatureStore.of(config, identify_weights(config, None), classifier)
        found = prefix.states(classifier, cut_splits(texts, classifier.reading), store=store)
    expected, _ = states_of(TINY, splits, stored=False)
    torch.testing.assert_close(found.test.inputs([3, 1]), expected.test.inputs([3, 1]))
    assert prefix.cost.n_computed == 0


# ---------------------------------------------------------------- stops and neighbours


def test_a_run_that_is_stopped_leaves_what_it_computed(
    splits: Splits, counted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocks = GPTClassifier.run_blocks

    def stops(self: GPTClassifier, *arguments: object, **others: object):
        if len(counted) == 12:
            raise KeyboardInterrupt
        return run_blocks(self, *arguments, **others)

    monkeypatch.setattr(GPTClassifier, "run_blocks", stops)
    with pytest.raises(KeyboardInterrupt):
        states_of(TINY, splits)
    monkeypatch.setattr(GPTClassifier, "run_blocks", run_blocks)
    n_done = n_embedded(counted)
    counted.clear()
    _, prefix = assert_right(TINY, splits)
    assert prefix.cost.n_found == 10 * n_done > 0


SETTINGS = {
    "ablation.finetuning.feature_store": {"PIECE_SECONDS": 0, "BYTES_PER_SECOND": 1e12},
    "ablation.finetuning.frozen_features": {"TOKENS_PER_BATCH": {"cpu": 40}},
}


def start(name: str, *flags: str) -> subprocess.Popen:
    """A run of row 1 on the demo's messages that stores all it computes, in a process."""
    return subprocess.Popen(
        [
            *(sys.executable, PATCHED, json.dumps(SETTINGS), "--demo", "--max_steps", "3"),
            *(*flags, "--output_dir", f"runs-{name}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_network(Path.cwd(), OMP_NUM_THREADS="1"),
    )


def finish(process: subprocess.Popen) -> tuple[int, list[str], str]:
    """Exit status, what was printed without the minutes, and standard error."""
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, [line for line in out.splitlines() if "minutes" not in line], err


def states_in(name: str) -> dict[str, int]:
    (record,) = read_records(Path(f"runs-{name}"))
    return record.result["states"]


@pytest.mark.slow
def test_kill_9_costs_one_piece_and_two_at_once_compute_once() -> None:
    whole = finish(start("whole", "--feature_store", "off"))
    total = states_in("whole")["computed"]
    process = start("killed", "--feature_store", "killed")
    while len(list(Path("killed").glob("*/*.states"))) < 20:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    n_pieces = len(list(Path("killed").glob("*/[!.]*.states")))
    again = finish(start("again", "--feature_store", "killed"))
    assert again[:2] == whole[:2]
    counts = states_in("again")
    assert counts["found"] + counts["computed"] == total
    assert counts["found"] == n_pieces * total // 600, "a text a piece"

    both = [start(name, "--feature_store", "shared") for name in ("one", "two")]
    for process in both:
        assert finish(process)[:2] == whole[:2]
    computed = [states_in(name)["computed"] for name in ("one", "two")]
    assert total <= sum(computed) <= 1.1 * total, "a batch or two before one of them waits"


def test_a_run_waits_for_another_and_takes_what_it_stored(
    splits: Splits, counted: list, caplog: pytest.LogCaptureFixture
) -> None:
    states_of(TINY, splits)
    ready = {path: path.read_bytes() for path in pieces()}
    n_texts = n_embedded(counted)
    (folder,) = {path.parent for path in ready}
    for path in ready:
        path.unlink()
    lock = filelock.FileLock(folder.with_suffix(".lock"), thread_local=False)
    lock.acquire()

    def other_process() -> None:
        while "Waiting for another process" not in caplog.text:
            time.sleep(0.01)
        time.sleep(2)
        for path, content in ready.items():
            path.write_bytes(content)
        lock.release()

    counted.clear()
    with caplog.at_level("INFO", "experiments"):
        thread = threading.Thread(target=other_process)
        thread.start()
        _, prefix = states_of(TINY, splits)
        thread.join()
    assert prefix.cost.seconds < 2, "what is stored has its own cost, and waiting none"
    assert n_embedded(counted) == 2 < n_texts, "one batch before it asks for the lock"


def test_what_another_process_stored_after_fewer_blocks_is_taken_further(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(store: FeatureStore, states: TextStates, n_blocks: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(FeatureStore, "_claim", lambda *_: None)
            states_of(replace(TINY, trainable_layers="last_two_blocks"), splits)
        store.fill(states, n_blocks)

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "_claim", waits)
        found, _ = states_of(TINY, splits)
    expected, _ = states_of(TINY, splits, stored=False)
    for part, other in zip(vars(found).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(part.inputs([0, 3]), other.inputs([0, 3]))


def test_nobody_waits_long_for_a_process_that_stores_nothing(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states_of(TINY, splits)
    (folder,) = {path.parent for path in pieces()}
    shutil.rmtree(folder)
    monkeypatch.setattr(feature_store, "PATIENCE", 0.5)
    with filelock.FileLock(folder.with_suffix(".lock"), thread_local=False):
        _, prefix = states_of(TINY, splits)
    assert prefix.cost.n_computed > 0
    assert "stored nothing of use" in caplog.text
    caplog.clear()
    shutil.rmtree(folder)
    states_of(TINY, splits)  # the lock's file is there, and nobody holds it
    assert "stored nothing of use" not in caplog.text


def test_processes_go_on_from_what_all_of_them_have(
    splits: Splits, counted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    states_of(TINY, splits)
    counted.clear()

    def lacks_three(numbers: torch.Tensor) -> torch.Tensor:
        return torch.arange(len(numbers)) >= 3

    monkeypatch.setattr(feature_store, "where_same", lacks_three)
    assert_right(TINY, splits)
    assert [n for _, n in counted[:2]] == [2, 1]


@pytest.mark.slow
def test_two_processes_of_torchrun_store_and_find() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    results = []
    for name in ("one", "two"):
        command = [PATCHED, json.dumps(SETTINGS), "--demo", "--max_steps", "3"]
        done = subprocess.run(
            [*launcher, "--nproc_per_node", "2", *command, "--output_dir", f"runs-{name}"],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment_without_network(Path.cwd(), OMP_NUM_THREADS="1"),
        )
        assert done.returncode == 0, done.stderr
        results.append([line for line in done.stdout.splitlines() if "minutes" not in line])
    assert results[0] == results[1]
    assert states_in("two") == {"found": states_in("one")["computed"], "computed": 0}


# ---------------------------------------------------------------- what is wrong with it


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)


def change_a_token(path: Path) -> None:
    """So that a piece seems to have another text: only the checksum knows."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["tokens"][3] ^= 1
    save_file(tensors, path, metadata)


def write_text(path: Path) -> None:
    path.write_text("no states at all, but a text that is long enough to be read")


def replace_by_another_models(path: Path) -> None:
    shutil.copy(next(Path("others").glob("*/*.states")), path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        *(truncate, cut_to_nothing, flip_a_bit, change_a_token, write_text),
        *(replace_by_another_models, replace_by_a_folder),
    ],
)
def test_a_damaged_piece_is_computed_anew_and_said(
    harm: object, splits: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    states_of(replace(TINY, seed=5, feature_store="others"), splits)
    states_of(TINY, splits)
    for path in pieces()[:3]:
        harm(path)
    _, prefix = assert_right(TINY, splits)
    assert 0 < prefix.cost.n_computed < prefix.cost.n_found
    assert "computed anew" in caplog.text
    assert "Traceback" not in caplog.text
    caplog.clear()
    _, prefix = assert_right(TINY, splits)
    if harm is not replace_by_a_folder:  # which is not ours to delete
        assert prefix.cost.n_computed == 0
        assert "computed anew" not in caplog.text


def is_file(folder: Path) -> None:
    folder.write_text("something else")


def is_link_to_nowhere(folder: Path) -> None:
    folder.symlink_to("nowhere/at/all")


def is_below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.write_text("something else")


@pytest.mark.parametrize("make", [is_file, is_link_to_nowhere, is_below_a_file])
def test_a_folder_that_is_none_costs_a_line(
    make: object, splits: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    Path("place").mkdir()
    make(Path("place/features"))
    config = replace(TINY, feature_store="place/features")
    _, prefix = assert_right(config, splits)
    assert prefix.cost.n_found == 0
    assert len(warnings_in(caplog)) == 1
    assert "not stored in place/features: it is no folder; delete it" in caplog.text


@pytest.mark.parametrize("error", [PermissionError(13, "Read-only"), OSError(28, "No space left")])
def test_a_disk_that_takes_nothing_costs_a_line(
    error: OSError,
    splits: Splits,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    states_of(TINY, splits)
    for path in pieces()[:3]:
        path.unlink()
    monkeypatch.setattr("ablation.classifier.tensor_files.write_safetensors", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    _, prefix = assert_right(TINY, splits)
    assert prefix.cost.n_found > 0
    assert len(warnings_in(caplog)) == 1
    assert error.strerror in caplog.text


def test_a_disk_that_is_almost_full_keeps_room_for_records(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    assert_right(TINY, splits)
    assert pieces() == []
    assert "the disk has only 1.0 GB left" in caplog.text


def test_what_was_not_used_for_longest_is_deleted(splits: Splits) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in pieces())

    states_of(TINY, splits)
    (first,) = {path.parent for path in pieces()}
    limit = 2.5 * size() / 1e9
    for age, seed in enumerate((124, 125)):
        states_of(replace(TINY, seed=seed, feature_store_gb=limit), splits)
        assert size() <= 1e9 * limit
        for path in pieces():
            os.utime(path, (time.time() + age - 99,) * 2)
        states_of(TINY, splits)  # is used, so it stays
    assert first in {path.parent for path in pieces()}
    _, prefix = states_of(replace(TINY, seed=124, feature_store_gb=limit), splits)
    assert prefix.cost.n_found < prefix.cost.n_computed


def test_nothing_but_pieces_is_ever_deleted(splits: Splits) -> None:
    for path in ("home/notes/thesis.txt", "home/0123456789abcdef/thesis.txt", "home/x/y.states"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("mine" * 10_000)
    states_of(replace(TINY, feature_store="home", feature_store_gb=1e-6), splits)
    assert len(list(Path("home").glob("*/thesis.txt"))) == 2
    assert Path("home/x/y.states").exists()


def test_states_that_take_more_than_the_limit(
    splits: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    _, whole = states_of(TINY, splits)
    limit = sum(path.stat().st_size for path in pieces()) / 2e9
    config = replace(TINY, feature_store="small", feature_store_gb=limit)
    states_of(config, splits)
    assert "need more than the" in caplog.text
    assert sum(path.stat().st_size for path in Path("small").glob("*/*")) <= 1e9 * limit
    _, prefix = assert_right(config, splits)
    assert 0 < prefix.cost.n_found < whole.cost.n_computed


def test_little_work_and_fast_work_is_not_stored(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "PIECE_SECONDS", 5.0)
    states_of(TINY, splits)
    monkeypatch.setattr(feature_store, "PIECE_SECONDS", 1e-9)
    monkeypatch.setattr(feature_store, "BYTES_PER_SECOND", 1000)
    states_of(TINY, splits)
    assert not Path("data/features").exists()


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def printed(capsys: pytest.CaptureFixture) -> Iterator[object]:
    def lines() -> list[str]:
        return [line for line in capsys.readouterr().out.splitlines() if "minutes" not in line]

    return lines


@pytest.mark.usefixtures("few_demo_messages")
def test_a_run_on_stored_states_is_the_same_run(printed: object) -> None:
    flags = ["--demo", "--num_epochs", "2", "--eval_freq", "1"]
    outputs = []
    for folder, store in (("a", "off"), ("b", "store"), ("c", "store")):
        assert main([*flags, "--feature_store", store, "--output_dir", folder]) == 0
        outputs.append(printed())
    assert outputs[0] == outputs[1] == outputs[2]
    records = [read_records(Path(folder))[0] for folder in "abc"]
    total = records[0].result["states"]["computed"]
    assert [record.result["states"] for record in records] == [
        {"found": 0, "computed": total},
        {"found": 0, "computed": total},
        {"found": total, "computed": 0},
    ]
    assert records[0].result["seconds"]["stored"] == records[1].result["seconds"]["stored"] == 0
    seconds = records[2].result["seconds"]
    assert 0 < seconds["stored"] <= records[1].result["seconds"]["features"]
    parts = seconds["features"] + seconds["stored"] + seconds["training"]
    assert records[2].minutes == pytest.approx(parts / 60)
    (line,) = [line for line in records[2].lines if "minutes" in line]
    spent = (seconds["features"] + seconds["training"]) / 60
    assert line == f"Training completed in {spent:.2f} minutes."
    assert {r.result["flags"]["feature_store"] for r in records} == {None}, (
        "it says nothing of a run"
    )


@pytest.mark.usefixtures("few_demo_messages")
def test_resuming_counts_no_states_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, num_epochs=2, learning_rate=5e-4, context_length=40)
    output = OutputOptions(folder=Path("run"), checkpoint_every=1, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(
            "ablation.finetuning.experiment.classify_texts", lambda *_: pytest.fail("stop")
        )
        with pytest.raises(pytest.fail.Exception):
            run_experiment(config, SharedWork([config]), output)
    result = run_experiment(config, SharedWork([config]), output)
    assert result.n_states["computed"] == 0
    assert result.seconds["stored"] == 0, "this run computed them, before it was stopped"


def test_nodes_of_a_cluster_have_one_store_for_all_their_tasks() -> None:
    assert for_nodes(TINY, "cpu").feature_store == str(Path("data/features").absolute())
    assert for_nodes(replace(TINY, feature_store="off"), "cpu").feature_store == "off"


def test_the_same_numbers_in_one_process() -> None:
    assert parallel.where_same(torch.tensor([3, 4])).tolist() == [True, True]


def test_texts_as_bytes_stand_before_those_that_begin_with_them() -> None:
    texts = EncodedTexts([[300, 2], [300], [2, 50256], [300, 2, 1]], [0] * 4, None)
    keys = [
        texts.first_tokens(i, n).numpy().astype(TOKEN).tobytes() for i, n in enumerate((2, 1, 2, 3))
    ]
    assert sorted(keys) == [keys[2], keys[1], keys[0], keys[3]]


def test_weights_in_another_order_are_others() -> None:
    """A hash by XOR does not see the order of what is hashed."""
    classifier, swapped = build_classifier(TINY), build_classifier(TINY)
    attention = swapped.gpt.blocks[1].attention
    attention.query, attention.key = attention.key, attention.query
    base = identify_weights(TINY, None)
    stores = [FeatureStore.of(TINY, base, model) for model in (classifier, swapped)]
    same = [a == b for a, b in zip(*(store._folders for store in stores), strict=True)]
    assert same == [True, True, False, False, False]


@pytest.mark.parametrize("folder", ["a\0b", "n" * 300])
def test_a_path_that_cannot_be_costs_a_line(
    folder: str, splits: Splits, caplog: pytest.LogCaptureFixture
) -> None:
    assert_right(replace(TINY, feature_store=folder), splits)
    assert "not stored" in caplog.text


def test_a_folder_of_somebody_else_costs_a_line(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(feature_store.os, "listdir", refuse)
    _, prefix = assert_right(TINY, splits)
    assert prefix.cost.n_found == 0
    assert "cannot be read" in caplog.text


def test_a_piece_that_cannot_be_read_for_now_is_not_deleted(
    splits: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    states_of(TINY, splits)
    before = pieces()
    with monkeypatch.context() as patched:
        patched.setattr(feature_store, "safe_open", refuse)
        assert_right(TINY, splits)
    assert set(before) <= set(pieces())
    assert "deleted" not in caplog.text


def test_other_tensors_under_a_pieces_name(splits: Splits) -> None:
    states_of(TINY, splits)
    tensors = {"tokens": torch.zeros(8, dtype=torch.bfloat16), "lengths": torch.ones(2, 2)}
    save_file(tensors, pieces()[0])
    assert_right(TINY, splits)


def test_a_limit_of_nothing_deletes_nothing(splits: Splits) -> None:
    states_of(TINY, splits)
    before = pieces()
    states_of(replace(TINY, seed=124, feature_store_gb=0.0), splits)
    assert pieces() == before


@pytest.mark.usefixtures("few_demo_messages")
def test_states_that_were_deleted_before_resuming_count_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(TINY, num_epochs=2, learning_rate=5e-4, context_length=40)
    output = OutputOptions(folder=Path("run"), checkpoint_every=1, resume=True)
    run_experiment(config, SharedWork([config]))  # fills the store
    with monkeypatch.context() as patched:
        patched.setattr(
            "ablation.finetuning.experiment.classify_texts", lambda *_: pytest.fail("stop")
        )
        with pytest.raises(pytest.fail.Exception):
            run_experiment(config, SharedWork([config]), output)
    shutil.rmtree("data/features")
    real = FeatureStore.collect

    def slow(self: FeatureStore, *arguments: object) -> None:
        time.sleep(0.01)
        real(self, *arguments)

    monkeypatch.setattr(FeatureStore, "collect", slow)
    result = run_experiment(config, SharedWork([config]), output)
    assert result.n_states["found"] == 0
    assert result.seconds["features"] > 0.1
    assert result.seconds["stored"] == 0
