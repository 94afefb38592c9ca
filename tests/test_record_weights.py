"""Records say which weights they started from, and what has changed since is not done."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch
from helpers import make_result
from safetensors.torch import load_file, save_file

from ablation.config.options import ExperimentConfig
from ablation.config.runs import Run
from ablation.finetuning import experiment, shared_work
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps import sweep
from ablation.sweeps.records import RESULT_NAME, Record, read_records, write_complete
from ablation.system.errors import DataError
from ablation.system.version import PROJECT
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

SHORT = ["--demo", "--max_steps", "2", "--eval_iter", "1", "--output_dir", "runs"]


@pytest.fixture
def weights(checkpoint: str, empty_folder: Path) -> Path:
    path = empty_folder / "w.safetensors"
    path.write_bytes((Path(checkpoint) / "model.safetensors").read_bytes())
    return path


def change(path: Path) -> None:
    """Another file of the same size under the same name."""
    tensors = {name: tensor + 1e-3 for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recorded() -> dict[str, dict]:
    """What records say of their weights, by what they read."""
    records = read_records(Path("runs"))
    return {record.config.trainable_token_pos: record.result["weights"] for record in records}


def forget(record: Record) -> None:
    """Make of a record one of an early version."""
    path = record.folder / RESULT_NAME
    result = json.loads(path.read_text())
    del result["weights"]
    path.write_text(json.dumps(result))


def row(number: str, *flags: str) -> int:
    return main([*SHORT, "--weights", "w.safetensors", "--rows", number, *flags])


def test_records_name_their_weights(weights: Path) -> None:
    assert row("16") == 0
    expected = {"weights": "w.safetensors", "file_sha256": sha256(weights)}
    assert recorded() == {"flexible": expected}
    assert main([*SHORT, "--seed", "7"]) == 0
    version = torch.__version__.partition("+")[0]
    assert recorded()["last"] == {"weights": "random", "seed": 7, "torch": version}


def test_a_changed_file_is_not_done_for_a_sweep(
    weights: Path, capsys: pytest.CaptureFixture
) -> None:
    assert row("1,16") == 0
    first = sha256(weights)
    capsys.readouterr()
    assert row("1,16") == 0
    assert capsys.readouterr().err.count("is done already") == 2
    change(weights)
    assert row("1,16", "--dry_run") == 0
    out, err = capsys.readouterr()
    assert "2 runs, 0 of them done" in out
    assert "Not done: --weights w.safetensors has changed since" in err
    assert row("1,16") == 0, "what is asked for replaces what was"
    assert sha256(weights) != first
    assert {base["file_sha256"] for base in recorded().values()} == {sha256(weights)}
    assert main(["--report", "--output_dir", "runs"]) == 0


@pytest.mark.slow
def test_a_sweep_does_not_put_two_files_into_one_table(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert row("1,2") == 0
    change(weights)
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_experiment", None)  # refused before anything is run
        assert row("2,16") == 1
    err = capsys.readouterr().err
    (stale,) = (
        r.folder for r in read_records(Path("runs")) if r.config.trainable_token_pos == "last"
    )
    assert f"{stale} started from another file than --weights w.safetensors is now" in err
    assert row("1,2,16") == 0, "the way out that it names"
    weights.rename("v.safetensors")
    flags = ["--weights", "v.safetensors", "--rows", "2,16"]
    assert main([*SHORT, *flags]) == 0, "another name is another run"


def test_a_changed_file_is_not_done_for_resume(
    weights: Path, capsys: pytest.CaptureFixture
) -> None:
    assert row("1", "--resume") == 0
    assert row("1", "--resume") == 0
    assert "complete already" in capsys.readouterr().err
    change(weights)
    assert row("1", "--resume") == 0
    err = capsys.readouterr().err
    assert "Not done: --weights w.safetensors has changed" in err
    assert "complete already" not in err
    assert recorded()["last"]["file_sha256"] == sha256(weights)


def test_two_files_of_one_name_are_not_compared(
    weights: Path, capsys: pytest.CaptureFixture
) -> None:
    assert row("1") == 0
    before = sha256(weights)
    change(weights)
    assert row("2") == 0, "a single run makes no table"
    a, b = (record.folder for record in read_records(Path("runs")))
    capsys.readouterr()
    for command in (["--compare", a.name, b.name], ["--report"]):
        assert main([*command, "--output_dir", "runs"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert all(text in err for text in (str(a), str(b), before, sha256(weights)))
        assert "Run again the one whose file is gone" in err


def test_different_names_and_random_weights_are_compared(weights: Path) -> None:
    assert row("1") == 0
    change(weights)
    weights.rename("v.safetensors")
    assert main([*SHORT, "--weights", "v.safetensors"]) == 0
    assert main([*SHORT]) == 0
    records = read_records(Path("runs"))
    assert len(records) == 3
    for record in records[1:]:
        names = [records[0].folder.name, record.folder.name]
        assert main(["--compare", *names, "--output_dir", "runs"]) == 0


# ---------------------------------------------------------------- early records


def test_early_records_are_done_unless_the_file_is_newer(
    weights: Path, capsys: pytest.CaptureFixture
) -> None:
    assert row("1,16") == 0
    for record in read_records(Path("runs")):
        forget(record)
    assert row("1,16", "--dry_run") == 0
    assert "2 of them done" in capsys.readouterr().out
    os.utime(weights, (time.time() + 5,) * 2)
    assert row("1,16", "--dry_run") == 0
    assert "0 of them done" in capsys.readouterr().out


@pytest.mark.slow
def test_what_early_records_do_not_say_is_said(
    weights: Path, capsys: pytest.CaptureFixture
) -> None:
    assert row("1,16") == 0
    records = read_records(Path("runs"))
    (early,) = (r for r in records if r.config.trainable_token_pos == "last")
    forget(early)
    capsys.readouterr()
    assert main(["--report", "--output_dir", "runs"]) == 0
    message = f"{early.folder} does not say which file --weights w.safetensors was"
    assert message in capsys.readouterr().err


def test_records_that_are_there_stay_valid() -> None:
    """Those in results/ are of an early version."""
    results = PROJECT / "results"
    records = read_records(results)
    assert records
    assert not any("weights" in record.result for record in records)
    assert (
        main(["--compare", *(r.folder.name for r in records[:2]), "--output_dir", str(results)])
        == 0
    )


# ---------------------------------------------------------------- while others write


def test_a_record_holds_the_file_that_was_read(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one that lay there when training had ended."""
    before, real = sha256(weights), experiment.train

    def change_and_train(*arguments: object) -> object:
        change(weights)
        return real(*arguments)

    monkeypatch.setattr(experiment, "train", change_and_train)
    assert row("1", "--save_model") == 0
    assert recorded()["last"]["file_sha256"] == before != sha256(weights)
    (config,) = Path("runs").glob("*/config.json")
    assert json.loads(config.read_text())["base"]["file_sha256"] == before


def test_a_sweep_does_not_share_what_has_changed(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedWork([config := ExperimentConfig(**TINY), ExperimentConfig(**TINY, seed=4)])
    first, base = shared.model(config)
    again, _ = shared.model(config)
    bias = [model.gpt.blocks[0].attention.query.bias for model in (first, again)]
    assert bias[0].data_ptr() == bias[1].data_ptr()
    change(weights)
    other, another_base = shared.model(config)
    assert base["file_sha256"] != another_base["file_sha256"] == sha256(weights)
    assert not torch.equal(other.gpt.blocks[0].attention.query.bias, bias[0])


def test_a_file_that_changes_while_it_is_read_is_refused(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shared_work.build_classifier

    def build_and_change(*arguments: object, **options: object) -> object:
        model = real(*arguments, **options)
        change(weights)
        return model

    monkeypatch.setattr(shared_work, "build_classifier", build_and_change)
    with pytest.raises(DataError, match=r"w\.safetensors changed while it was read"):
        SharedWork([ExperimentConfig(**TINY)]).model(ExperimentConfig(**TINY))


TINY = {"demo": True, "model_size": "gpt2-tiny (3M)", "weights": "w.safetensors"}


def test_a_node_of_a_cluster_knows_the_file_by_another_path(tmp_path: Path) -> None:
    """Records name the weights as the command did."""
    run = Run(ExperimentConfig(weights="w.safetensors"))
    found: ExperimentResult = make_result([0, 1], [0, 1])
    found.weights.update(weights="/on/the/node/w.safetensors", file_sha256="1" * 64)
    write_complete(tmp_path, run, found, {"name": "demo", "split_sha256": "0" * 64})
    (record,) = read_records(tmp_path)
    assert record.result["weights"] == {"weights": "w.safetensors", "file_sha256": "1" * 64}
    assert record.weights_sha256 == "1" * 64
