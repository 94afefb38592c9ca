"""The script as a user runs it: in a subprocess, in an empty folder, without a network."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SCRIPT, environment_without_network

from ablation.data.demo import byte_encoding, demo_messages
from ablation.data.sms import DATASET_NAME
from ablation.finetuning import memory
from ablation.system import downloads
from ablation.system.version import code_files
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("plain_pictures")


def run(*flags: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *flags],
        cwd=folder,
        env=environment_without_network(folder, **environment),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_demo(tmp_path: Path) -> None:
    finished = run("--demo", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("Ep 1 (Step 000000): Train loss ")
    test_accuracy = re.fullmatch(r"Test accuracy: (\d+\.\d\d)%", lines[-1])
    assert float(test_accuracy[1]) > 90, "training finds more than two words would tell"
    notice, sizes, times, record, *closing = finished.stderr.splitlines()
    assert notice == "Demo: the messages are synthetic, so the figures mean nothing."
    assert sizes == "demo: 420 training, 60 validation and 120 test texts of 2 classes"
    assert times.startswith("Seconds: features ")
    assert len(closing) == 6, "what came out, its yardstick, and three commands to go on with"
    folder = tmp_path / record.removeprefix("Record: ")
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    (split,) = folder.parent.glob("split-*.csv")
    expected = [folder / "predictions.csv", folder / "result.json", split]
    assert written == [path.relative_to(tmp_path) for path in expected], "and nothing else"
    accuracy = json.loads((folder / "result.json").read_text())["accuracy"]["test"]
    assert f"{100 * accuracy['correct'] / accuracy['total']:.2f}" == test_accuracy[1]


@pytest.mark.slow
def test_a_sweep_from_start_to_report(tmp_path: Path) -> None:
    finished = run("--rows", "1,2", "--demo", "--max_steps", "4", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Test accuracy: ") == 2
    assert finished.stdout.splitlines()[-1] == f"Report: {Path('runs/demo/report.html')}"
    folder = tmp_path / "runs" / "demo"
    reports = ["report.html", "report.md", "report_pictures"]
    assert sorted(path.name for path in folder.glob("report*")) == reports
    assert len(list(folder.glob("*/result.json"))) == 2


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    command = ["--model_size", "gpt2-xl (1558M)--trainable_layers", "all", "--batch_size", "0"]
    finished = run(*command, folder=tmp_path)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "a space is missing before --trainable_layers" in finished.stderr
    assert "--batch_size 0" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--demo", "--max_steps", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 1


def test_nothing_that_is_read_can_run_code() -> None:
    for path in code_files():
        found = re.findall(r"pickle|torch\.load|\beval\(|\bexec\(|yaml|joblib", path.read_text())
        # A model is put into its mode for evaluation; nothing else has that name. Processes of one
        # cluster send each other pickles, which is how Ray works.
        # And what refuses pickles names them.
        allowed = {"eval("}
        if path.stem.startswith("ray_") or path.stem == "weight_kinds":
            allowed.add("pickle")
        assert set(found) <= allowed, path
        assert not re.search(r"(?<!\.)\beval\(", path.read_text()), path


# ---------------------------------------------------------------- the same, without a subprocess


@pytest.mark.usefixtures("few_demo_messages")
def test_a_plan_and_a_comparison(capsys: pytest.CaptureFixture, empty_folder: Path) -> None:
    flags = ["--rows", "2,16", "--demo", "--max_steps", "2"]
    assert main([*flags, "--dry_run"]) == 0
    assert capsys.readouterr().out.count("to do  python additional_experiments.py") == 2
    assert list(empty_folder.iterdir()) == []
    for row in ("2", "16"):
        assert main(["--rows", row, "--demo", "--max_steps", "2"]) == 0
    assert main([*flags, "--dry_run"]) == 0
    assert "2 runs, 2 of them done" in capsys.readouterr().out
    a, b = sorted(path.parent.name for path in empty_folder.glob("runs/demo/*/result.json"))
    assert main(["--compare", a, b, "--output_dir", "runs/demo"]) == 0
    assert "exact McNemar p " in capsys.readouterr().out


def fail(capsys: pytest.CaptureFixture, *flags: str) -> str:
    """Standard error of a run that ends with status 1 before it prints any result."""
    assert main(flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in environment_without_network(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.0)


def test_missing_network_exits_with_1(no_network: None, capsys: pytest.CaptureFixture) -> None:
    error = fail(capsys)
    assert "archive.ics.uci.edu" in error
    assert "backblazeb2.com" in error
    assert f"at {Path('data') / DATASET_NAME}" in error


def test_missing_weights_exit_with_1(
    no_network: None, real_data_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    error = fail(capsys, "--data_dir", str(real_data_dir))
    assert "607a30d783dfa663caf39e06633721c8d4cfcd7e" in error
    assert "WEIGHTS_DIR/gpt2/model.safetensors" in error


def test_wrong_data_file_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / DATASET_NAME).write_text("ham\tnot the file\n")
    assert "is not the SMS Spam Collection" in fail(capsys, "--data_dir", str(tmp_path))


@pytest.mark.usefixtures("few_demo_messages")
@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 4000])
def test_wrong_checkpoint_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: bytes
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    message = fail(capsys, "--demo", "--weights", str(path))
    assert "w.safetensors cannot be read as safetensors" in message


@pytest.mark.usefixtures("few_demo_messages")
def test_a_loss_that_is_not_finite_exits_with_1(capsys: pytest.CaptureFixture) -> None:
    flags = ["--demo", "--learning_rate", "1e9", "--max_steps", "2", "--eval_freq", "1"]
    assert main(flags) == 1
    assert "not finite, so the run stops" in capsys.readouterr().err


@pytest.mark.usefixtures("few_demo_messages")
def test_too_little_memory_is_foreseen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10_000_000)
    assert main(["--demo", "--trainable_layers", "all"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "out of memory: AdamW's moments alone take 0.0 GB" in err
    assert "--model_size" in err
    monkeypatch.setattr(memory, "free_bytes", lambda device: 40_000_000)
    flags = ["--demo", "--trainable_layers", "all", "--max_steps", "1"]
    assert main(flags) == 0
    assert "Memory is short" in capsys.readouterr().err


# ---------------------------------------------------------------- the demo's data


def test_demo_messages_are_fixed_and_different() -> None:
    messages = demo_messages()
    assert messages.equals(demo_messages())
    assert messages["Text"].is_unique
    assert messages["Label"].value_counts().to_dict() == {"ham": 360, "spam": 300}
    assert max(len(byte_encoding().encode(text)) for text in messages["Text"]) < 256


def test_no_two_words_separate_the_demo() -> None:
    """The best rule on whether two words are in a text gets less than four in five right."""
    messages = demo_messages()
    spam = (messages["Label"] == "spam").to_numpy()
    words = {}
    for i, text in enumerate(messages["Text"]):
        for word in set(text.lower().replace("!", " ").replace(":", " ").split()):
            words.setdefault(word.strip(".,?"), set()).add(i)
    everyone = set(range(len(messages)))
    frequent = sorted(words.values(), key=len, reverse=True)[:120]
    best = 0.0
    for i, first in enumerate(frequent):
        for second in frequent[i + 1 :]:
            cells = (first & second, first - second, second - first, everyone - first - second)
            right = 0
            for cell in cells:
                n_spam = sum(spam[j] for j in cell)
                right += max(n_spam, len(cell) - n_spam)
            best = max(best, right / len(messages))
    assert best < 0.8
