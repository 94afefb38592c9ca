import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import config_from_flags
from safetensors.torch import load_file, save_file

from ablation.classifier.tensor_files import read_tensors, write_tensors
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions
from ablation.data import corpora
from ablation.finetuning import checkpoints, experiment, shared_work, training
from ablation.finetuning.checkpoints import CHECKPOINT_NAME, Checkpoints
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.training import TrainingState
from ablation.sweeps.records import read_records
from ablation.system.errors import DataError, TensorFileError
from ablation.system.files import clear_leftovers, replacing
from ablation.system.signals import DeferredSignals, Interrupted, interruptible
from ablation.system.version import PROJECT
from additional_experiments import main

# Three batches are an epoch.
pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

FOUR_EPOCHS = ["--demo", "--num_epochs", "4"]
DEMO = [*FOUR_EPOCHS, "--eval_freq", "2", "--max_steps", "11"]


class Stopped(Exception):
    pass


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make training end at a step as if the machine had been switched off."""
    real = Checkpoints.after_update

    def after_update(self: Checkpoints, state: TrainingState, ends_epoch: bool) -> None:
        real(self, state, ends_epoch)
        if state.step >= step:
            raise Stopped

    monkeypatch.setattr(Checkpoints, "after_update", after_update)


def outcome(result: ExperimentResult) -> tuple:
    return result.history, result.accuracy, result.test.logits.tolist()


@pytest.mark.parametrize(
    ("flags", "every", "stops"),
    [
        ("", 1, [1, 2, 3, 4, 10, 11]),
        ("", "epoch", [5, 11]),
        pytest.param("--trainable_layers all", 4, [5, 9], marks=pytest.mark.slow),
        ("--trainable_layers lora --lora_rank 2 --average_embeddings", 5, [6, 11]),
        (
            "--no_padding --batch_size 1 --accumulation_steps 8 --max_steps 90 --eval_freq 7",
            20,
            [17, 40, 66],
        ),
        ("--trainable_layers last_layer --no_feature_reuse", 2, [5]),
        ("--precision bf16 --accumulation_steps 2", 3, [4, 7]),
        ("--keep_best --learning_rate 1e-2", 1, [1, 3, 4, 7, 11]),
        ("--keep_best --stop_after 1 --class_weights balanced --learning_rate 2e-3", 2, [5, 6]),
    ],
)
def test_resumed_equals_uninterrupted(
    flags: str,
    every: int | str,
    stops: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    start = FOUR_EPOCHS if "--max_steps" in flags else DEMO
    config = config_from_flags([*start, *flags.split()])
    whole = run_experiment(config)
    printed = capsys.readouterr().out.splitlines()
    output = OutputOptions(tmp_path, resume=True, checkpoint_every=every)
    for step in stops:
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            with pytest.raises(Stopped):
                run_experiment(config, output=output)
    capsys.readouterr()
    resumed = run_experiment(config, output=output)
    assert outcome(resumed) == outcome(whole)
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if "completed in" not in line]
    assert lines == [line for line in printed if "completed in" not in line]
    assert resumed.seconds["training"] > 0


def test_a_checkpoint_from_before_an_option_was_added_still_continues(tmp_path: Path) -> None:
    config, path = config_from_flags(DEMO), tmp_path / CHECKPOINT_NAME
    whole = run_experiment(config, output=OutputOptions(tmp_path, checkpoint_every=6))
    header, tensors = read_tensors(path)
    for name in ("class_weights", "keep_best", "stop_after"):
        del header["identity"]["options"][name]
    header["step"] = 11
    write_tensors(path, tensors, header)
    output = OutputOptions(tmp_path, resume=True)
    assert outcome(run_experiment(config, output=output)) == outcome(whole)
    other = replace(config, class_weights="balanced")
    with pytest.raises(TensorFileError, match="belongs to a run on other data"):
        run_experiment(other, output=output)


def test_a_checkpoint_without_the_weights_of_the_best_epoch_is_damaged(tmp_path: Path) -> None:
    config = config_from_flags(["--demo", "--keep_best", "--num_epochs", "2"])
    run_experiment(config, output=OutputOptions(tmp_path, checkpoint_every=6))
    header, tensors = read_tensors(tmp_path / CHECKPOINT_NAME)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("best.")}
    assert len(kept) < len(tensors)
    write_tensors(tmp_path / CHECKPOINT_NAME, kept, header)
    with pytest.raises(TensorFileError, match=r"damaged.*too many or too few"):
        run_experiment(config, output=OutputOptions(tmp_path, resume=True))


def test_a_checkpoint_holds_what_trains_and_no_more(tmp_path: Path) -> None:
    config = config_from_flags(["--demo", "--max_steps", "3"])
    run_experiment(config, output=OutputOptions(tmp_path, checkpoint_every=3))
    _, tensors = read_tensors(tmp_path / CHECKPOINT_NAME)
    model = {name for name in tensors if name.startswith("model.")}
    assert model
    assert all("blocks.3." in name or "final_norm" in name or "head" in name for name in model)
    # Two moments and a count for each, and two states of the generator.
    assert len(tensors) == 4 * len(model) + 2


def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, few_messages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from_flags(["--demo", "--max_steps", "2"])
    output = OutputOptions(tmp_path, resume=True, checkpoint_every=1)
    run_experiment(config, output=output)
    for other in (replace(config, seed=5), replace(config, learning_rate=1e-3)):
        with pytest.raises(TensorFileError, match="belongs to a run on other"):
            run_experiment(other, output=output)
    run_experiment(replace(config, device="cpu"), output=output)  # a circumstance
    monkeypatch.setattr(corpora, "demo_messages", lambda: few_messages[1:])
    with pytest.raises(TensorFileError, match="belongs to a run on other data"):
        run_experiment(config, output=output)


def test_a_checkpoint_from_other_base_weights_is_refused(checkpoint: str, tmp_path: Path) -> None:
    """Also where what trains, and so the checkpoint, has the same shapes."""
    path = tmp_path / "w.safetensors"
    path.write_bytes((Path(checkpoint) / "model.safetensors").read_bytes())
    config = config_from_flags(["--demo", "--max_steps", "2", "--weights", str(path)])
    output = OutputOptions(tmp_path / "run", resume=True, checkpoint_every=1)
    run_experiment(config, output=output)
    header, _ = read_tensors(tmp_path / "run" / CHECKPOINT_NAME)
    assert header["identity"]["base"] == {
        "weights": str(path),
        "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    run_experiment(config, output=output)
    tensors = load_file(path)
    tensors["wpe.weight"][0, 0] += 1e-3
    save_file(tensors, path)
    with pytest.raises(TensorFileError, match="belongs to a run on other data, weights"):
        run_experiment(config, output=output)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no tensors"),
    "long header": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "tensor lost": lambda path: rewrite(path, drop="model.head.weight"),
    "moments lost": lambda path: rewrite(path, drop="generators.now"),
    "not finite": lambda path: rewrite(path, spoil="model.head.weight"),
    "one bit": lambda path: flip(path, -1),
    "one bit in the middle": lambda path: flip(path, -path.stat().st_size // 2),
}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, drop: str = "", spoil: str = "") -> None:
    header, tensors = read_tensors(path)
    tensors.pop(drop, None)
    if spoil:
        tensors[spoil][0, 0] = torch.nan
    write_tensors(path, tensors, header)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    config = config_from_flags(["--demo", "--max_steps", "2"])
    output = OutputOptions(tmp_path, resume=True, checkpoint_every=1)
    run_experiment(config, output=output)
    DAMAGES[damage](tmp_path / CHECKPOINT_NAME)
    with pytest.raises(TensorFileError, match=r"checkpoint\.safetensors is damaged"):
        run_experiment(config, output=output)


def test_the_last_good_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CHECKPOINT_NAME
    write_tensors(path, {"a": torch.ones(2)}, {"step": 1})

    def half_written(file: Path, *_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablation.classifier.tensor_files.write_safetensors", half_written)
    with pytest.raises(TensorFileError, match="No space left"):
        write_tensors(path, {"a": torch.zeros(2)}, {"step": 2})
    assert read_tensors(path)[0] == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_NAME]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    for name, age in ((".a.1", 2 * 86_400), (".a.2", 60), (".b.3", 2 * 86_400)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.2", ".b.3", "a"]


KILLED = """
import resource, signal, sys, torch
from pathlib import Path
from ablation.classifier.tensor_files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # beyond that the system kills it
write_tensors(Path(sys.argv[1]), {"a": torch.ones(10_000)}, {})
"""


def test_a_kill_leaves_nothing_that_is_not_cleared(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_NAME
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=PROJECT, timeout=60)
    assert killed.returncode == -signal.SIGXFSZ
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == 10_000
    clear_leftovers(path)
    assert [*tmp_path.iterdir()], "somebody may be writing it"
    clear_leftovers(path, seconds=0)
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------- signals


@pytest.fixture
def signal_after_step(small_models: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Sends signals during training: [(step, signal), ...]."""
    wanted: list[tuple[int, signal.Signals]] = []
    real = Checkpoints.after_update

    def after_update(self: Checkpoints, state: TrainingState, ends_epoch: bool) -> None:
        for step, number in wanted:
            if state.step == step:
                signal.raise_signal(number)
        real(self, state, ends_epoch)

    monkeypatch.setattr(checkpoints.Checkpoints, "after_update", after_update)
    return wanted


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_can_be_resumed(
    number: signal.Signals,
    status: int,
    signal_after_step: list,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    flags = [*DEMO, "--output_dir", str(tmp_path)]
    signal_after_step.append((5, number))
    assert main(flags) == status
    captured = capsys.readouterr()
    assert "Stopping after this step" in captured.err
    assert "With --resume" in captured.err
    (record,) = read_records(tmp_path)
    assert record.result["status"] == "interrupted"
    assert number.name in record.result["error"]
    assert read_tensors(record.folder / CHECKPOINT_NAME)[0]["step"] == 5

    signal_after_step.clear()
    (record.folder / f".{CHECKPOINT_NAME}.1").write_text("half")  # as a kill leaves it
    assert main([*flags, "--resume"]) == 0
    resumed = capsys.readouterr().out.splitlines()
    (record,) = read_records(tmp_path)
    assert record.is_complete
    assert sorted(path.name for path in record.folder.iterdir()) == [
        "predictions.csv",
        "result.json",
    ]
    assert main([*flags, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == resumed, "the recorded lines, minutes included"
    assert main([*DEMO, "--output_dir", str(tmp_path / "whole")]) == 0
    whole = capsys.readouterr().out.splitlines()
    assert [line for line in whole if "minutes" not in line] == [
        line for line in resumed if "minutes" not in line
    ]


def test_a_sweep_goes_on_from_the_checkpoint(
    signal_after_step: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*DEMO, "--rows", "1,16", "--output_dir", str(tmp_path)]
    signal_after_step.append((5, signal.SIGTERM))
    assert main(flags) == 143
    assert [record.result["status"] for record in read_records(tmp_path)] == ["interrupted"]
    signal_after_step.clear()
    assert main(flags) == 0
    assert "Continuing after step 5" in capsys.readouterr().err
    assert all(record.is_complete for record in read_records(tmp_path))


def test_a_second_signal_stops_at_once(signal_after_step: list, tmp_path: Path) -> None:
    signal_after_step += [(5, signal.SIGINT), (5, signal.SIGINT)]
    assert main([*DEMO, "--output_dir", str(tmp_path)]) == 130
    (record,) = read_records(tmp_path)
    assert record.result["status"] == "interrupted"
    assert not (record.folder / CHECKPOINT_NAME).exists()


def send_within(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Send SIGTERM once, when the run is at a place."""
    owner, _, name = place.rpartition(".")
    owners = {"experiment": experiment, "shared_work": shared_work, "Checkpoints": Checkpoints}
    real = getattr(owners[owner], name)
    sent = []

    def send_first(*arguments: object, **named: object) -> object:
        if not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments, **named)

    monkeypatch.setattr(owners[owner], name, send_first)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    "place",
    [
        "shared_work.build_classifier",
        "Checkpoints.restore",
        "Checkpoints.end_training",
        "experiment.classify_texts",
    ],
)
def test_a_signal_outside_training_is_heeded(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--demo", "--max_steps", "3", "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        send_within(patch, place)
        assert main(flags) == 143
    (record,) = read_records(tmp_path)
    assert record.result["status"] == "interrupted"
    trained = place in ("Checkpoints.end_training", "experiment.classify_texts")
    assert (record.folder / CHECKPOINT_NAME).exists() or not trained
    with monkeypatch.context() as patch:
        if trained:
            patch.setattr(training, "_backward", None)  # nothing is left to train
        assert main([*flags, "--resume"]) == 0
    assert read_records(tmp_path)[0].is_complete


def test_a_signal_while_resuming_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--demo", "--max_steps", "3", "--output_dir", str(tmp_path), "--resume"]
    with monkeypatch.context() as patch:
        send_within(patch, "experiment.classify_texts")
        assert main(flags) == 143
    with monkeypatch.context() as patch:
        send_within(patch, "Checkpoints.restore")
        assert main(flags) == 143
    assert main(flags) == 0


def test_an_interrupted_repetition_is_gone_on_with(
    signal_after_step: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*DEMO, "--output_dir", str(tmp_path)]
    assert main(flags) == 0
    signal_after_step.append((5, signal.SIGINT))
    assert main(flags) == 130
    assert read_records(tmp_path)[0].is_complete, "the earlier record stands"
    signal_after_step.clear()
    assert main([*flags, "--resume"]) == 0
    assert "Continuing after step 5" in capsys.readouterr().err


def test_the_run_goes_on_without_what_identifies_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: object) -> dict:
        raise DataError("the weights are gone")

    monkeypatch.setattr("ablation.finetuning.checkpoints.write_tensors", gone)
    config = config_from_flags(["--demo", "--max_steps", "2"])
    run_experiment(config, output=OutputOptions(tmp_path, checkpoint_every=1))
    assert "No checkpoint: the weights are gone" in caplog.text


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with DeferredSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signals.raise_if_stopped()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_outside_the_main_thread(tmp_path: Path) -> None:
    config: ExperimentConfig = config_from_flags(["--demo", "--max_steps", "1"])
    results = []
    thread = threading.Thread(target=lambda: results.append(run_experiment(config)))
    thread.start()
    thread.join()
    assert len(results) == 1
