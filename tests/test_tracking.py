"""--track, with trackers that write down their calls, and with TensorBoard if it is installed."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import config_from_flags

from ablation.config.flags import ACTIONS
from ablation.config.options import without
from ablation.config.runs import Run
from ablation.finetuning.checkpoints import Checkpoints
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.shared_work import SharedWork
from ablation.finetuning.training_state import TrainingState
from ablation.sweeps import ray_sweep, tracking
from ablation.sweeps.records import Record, read_records
from ablation.sweeps.trackers import SETTINGS, TRACKERS, environment
from ablation.system.version import PROJECT
from additional_experiments import main

# Three batches are an epoch.
pytestmark = pytest.mark.usefixtures("few_demo_messages", "plain_pictures")

RUN = ["--demo", "--num_epochs", "3", "--eval_freq", "2", "--keep_best"]
KINDS = ("wandb", "trackio", "mlflow")
FAKE = Path(__file__).with_name("fake_tracker.py")


@pytest.fixture(autouse=True)
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trackers that write what is called into a file."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for kind in KINDS:
        shutil.copy(FAKE, folder / f"{kind}.py")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    monkeypatch.syspath_prepend(folder)  # for the look whether they are installed
    monkeypatch.setattr(tracking, "_hung", set())
    return tmp_path / "calls"


def read(calls: Path) -> list[dict]:
    return [json.loads(line) for line in calls.read_text().splitlines()]


def tracked_run(folder: Path, *flags: str) -> Record:
    assert main([*RUN, "--output_dir", str(folder), *flags]) == 0
    (record,) = read_records(folder)
    return record


def without_minutes(text: str) -> str:
    return re.sub(r"Training completed.*", "", text)


def expected_log(record: Record) -> dict[int, dict[str, float]]:
    """What is to be logged at each step, from the record: three batches in an epoch."""
    history, steps = record.result["history"], {}
    for loss in history["losses"]:
        steps.setdefault(loss["step"], {})["train/loss"] = loss["train"]
        steps[loss["step"]]["validation/loss"] = loss["validation"]
    for epoch, pair in enumerate(history["epoch_accuracies"]):
        at = steps.setdefault(3 * epoch + 2, {})
        for part, count in zip(("train", "validation"), pair, strict=True):
            at[f"{part}/accuracy"] = 100 * count["correct"] / count["total"]
        whole = history["validations"][epoch]
        at["validation/whole_loss"] = whole["loss"]
        at["validation/whole_accuracy"] = (
            100 * whole["accuracy"]["correct"] / whole["accuracy"]["total"]
        )
    return steps


def logged(found: list[dict]) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for call in found:
        if call["call"] == "log" and call["step"] is not None:
            assert call["step"] >= max(steps, default=0), "steps only go up"
            steps.setdefault(call["step"], {}).update(call["metrics"])
    for step, values in steps.items():
        assert values.pop("epoch") == step // 3 + 1
    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_sees_what_the_record_says(kind: str, calls: Path, tmp_path: Path) -> None:
    record = tracked_run(tmp_path / "runs", "--track", kind)
    found = read(calls)
    assert logged(found) == expected_log(record)
    assert [call["name"] for call in found if "name" in call] == [record.folder.name]
    (options,) = (call["config"] for call in found if "config" in call)
    assert options.pop("command") == record.result["command"]
    assert options == {name: getattr(record.config, name) for name in without("circumstance")}
    (figures,) = (c["metrics"] for c in found if c["call"] == "log" and c["step"] is None)
    for part in ("train", "validation", "test"):
        assert figures[f"final/{part}_accuracy"] == pytest.approx(record.accuracy(part).percent)
    assert figures["final/macro_f1"] == pytest.approx(100 * record.result["test"]["macro_f1"])
    assert figures["final/kept_epoch"] == record.result["history"]["kept_epoch"]
    assert found[-1]["call"] == "finish"
    assert found[-1]["status"] == {"wandb": 0, "trackio": None, "mlflow": "FINISHED"}[kind]


def test_tracking_changes_nothing_of_a_run(
    calls: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    plain = tracked_run(tmp_path / "plain")
    printed = capfd.readouterr()
    record = tracked_run(tmp_path / "runs", "--track", "wandb")
    captured = capfd.readouterr()
    assert without_minutes(captured.out) == without_minutes(printed.out)
    assert "speaks" not in captured.out + captured.err
    assert record.folder.name == plain.folder.name
    for name in ("flags", "history", "accuracy", "command", "test", "predictions_sha256"):
        assert record.result[name] == plain.result[name], name
    assert sorted(path.name for path in record.folder.iterdir()) == [
        "predictions.csv",
        "result.json",
    ]
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"tracking", record.folder.name}
    assert [*Path().iterdir()] == [], "nothing lands in the folder where it is started"
    assert "command" in record.result
    assert "track" not in record.result["flags"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("import raise", "ZeroDivisionError: division by zero"),
        ("start raise", "ZeroDivisionError"),
        ("log raise", "ZeroDivisionError"),
        ("end raise", "ZeroDivisionError"),
        ("import exit", "SystemExit: I leave"),
        ("log interrupt", "KeyboardInterrupt. The"),
        ("import quote", f"SystemExit: {'x' * 188}... The"),
        ("start die", "its process ended with status 3. The"),
        ("log crash", "its process ended by SIGSEGV. The"),
        ("import hang", "it did not finish in 4 seconds, so this command starts it no more. The"),
        pytest.param("end hang", "it did not finish in 4 seconds", marks=pytest.mark.slow),
        ("start sleep", "one call took longer than 1 seconds. The"),
    ],
)
@pytest.mark.slow
def test_a_tracker_that_fails_is_a_line_and_costs_no_run(
    fault: str,
    words: str,
    calls: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    monkeypatch.setattr(tracking, "ENDING_SECONDS", 4 if "hang" in fault else 60)
    if "sleep" in fault:
        monkeypatch.setattr(tracking, "CALL_SECONDS", 1)
        limited = "serve.__globals__['CALL_SECONDS'] = 1; serve()"
        monkeypatch.setattr(tracking, "CHILD", tracking.CHILD.replace("serve()", limited))
    kind = "mlflow" if "log" in fault else "wandb"
    record = tracked_run(tmp_path, "--track", kind)
    captured = capfd.readouterr()
    (line,) = (line for line in captured.err.splitlines() if line.startswith("--track"))
    assert line.startswith(f"--track {kind}: {words}")
    when = "The run goes on without it.", "The run is complete all the same."
    assert line.endswith(when[1:] if "hang" in fault or "end" in fault else when)
    assert record.is_complete
    assert "Test accuracy" in captured.out
    assert "Traceback" not in captured.err


@pytest.mark.slow
def test_a_tracker_that_hangs_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    started = []
    monkeypatch.setenv("FAKE_FAULT", "import hang")
    monkeypatch.setattr(tracking, "ENDING_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "environment", lambda *a: started.append(a) or environment(*a))
    sweep = [*RUN, "--output_dir", str(tmp_path), "--num_seeds", "2", "--track", "wandb"]
    assert main(sweep) == 0
    assert [record.is_complete for record in read_records(tmp_path)] == [True, True]
    assert len(started) == 1
    assert capfd.readouterr().err.count("--track wandb: it did not finish") == 1


def test_a_run_that_failed_is_not_said_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "end raise")
    config = config_from_flags(RUN)
    with pytest.raises(ValueError, match="mine"), tracking.tracked("wandb", tmp_path / "r", config):
        raise ValueError("mine")
    (line,) = caplog.messages
    assert line.startswith("--track wandb: ZeroDivisionError: division by zero. The run failed")


def test_a_folder_that_cannot_be_written_is_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "tracking").touch()
    assert tracked_run(tmp_path, "--track", "wandb").is_complete
    assert "--track wandb: [Errno" in capfd.readouterr().err


def test_a_resumed_run_is_seen_whole(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Checkpoints.after_update

    def stop(self: Checkpoints, state: TrainingState, ends_epoch: bool) -> None:
        real(self, state, ends_epoch)
        if state.step == 5:
            raise RuntimeError("the lights went out")

    flags = ["--track", "mlflow", "--checkpoint_every", "2", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "after_update", stop)
        with pytest.raises(RuntimeError, match="lights"):
            main([*RUN, "--output_dir", str(tmp_path), *flags])
    assert read(calls)[-1] == {"call": "finish", "status": "FAILED"}
    assert logged(read(calls)).keys() == {0, 2, 4}
    calls.unlink()
    record = tracked_run(tmp_path, *flags)
    assert logged(read(calls)) == expected_log(record)


def test_each_run_of_a_sweep_is_one_of_the_tracker(calls: Path, tmp_path: Path) -> None:
    sweep = [*RUN, "--output_dir", str(tmp_path), "--num_seeds", "2", "--track", "trackio"]
    assert main(sweep) == 0
    names = {record.folder.name for record in read_records(tmp_path)}
    assert {call["name"] for call in read(calls) if call["call"] == "init"} == names
    assert len(names) == 2
    assert [call["call"] for call in read(calls)].count("finish") == 2
    calls.unlink()
    assert main(sweep) == 0
    assert not calls.exists(), "what is done already is not tracked again"


def test_a_run_of_ray_is_sent_from_here(calls: Path, tmp_path: Path) -> None:
    plain = tracked_run(tmp_path / "plain")
    config = plain.config
    shared = SharedWork([config])
    outcome = ray_sweep.Outcome("node", 1.0, run_experiment(config, shared))
    place = (tmp_path / "ray", "wandb", shared.corpus, "Run 1 of 1")
    assert ray_sweep._record(Run(config), outcome, *place) is None
    assert logged(read(calls)) == expected_log(plain)
    assert read(calls)[-1] == {"call": "finish", "status": 0}


def test_who_is_killed_leaves_a_run_that_says_so(calls: Path, tmp_path: Path) -> None:
    run = {"name": "n", "folder": str(tmp_path), "options": {}}
    lines = [json.dumps(run), json.dumps({"step": 3, "values": {"a": 1.0}}), '{"step": 4, "val']
    ended = subprocess.run(
        [sys.executable, "-c", tracking.CHILD, "mlflow"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert [call["call"] for call in read(calls)] == [
        *("import", "init", "params", "log", "log", "finish")
    ]
    assert read(calls)[-1]["status"] == "KILLED"


# ---------------------------------------------------------------- where figures go


def test_nothing_leaves_the_machine_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://a",
        "MLFLOW_TRACKING_URI": "http://a",
        "TRACKIO_SPACE_ID": "a/b",
        "TRACKIO_DIR": "elsewhere",
    }
    for name in asked:
        monkeypatch.delenv(name, raising=False)
    for kind, settings in SETTINGS.items():
        found = environment(kind, tmp_path, is_offline=False)
        assert {k: v.replace("FOLDER", str(tmp_path)) for k, v in settings.items()}.items() <= (
            found.items()
        )
    assert environment("wandb", tmp_path, False)["WANDB_MODE"] == "offline"
    database = f"sqlite:///{tmp_path}/mlflow.db"
    assert environment("mlflow", tmp_path, False)["MLFLOW_TRACKING_URI"] == database
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    for kind in SETTINGS:
        assert environment(kind, tmp_path, is_offline=False).items() >= asked.items()
        offline = environment(kind, tmp_path, is_offline=True)
        assert not {"http://a", "a/b", "online", "elsewhere"} & {*offline.values()}
        assert offline["HF_HUB_OFFLINE"] == "1"
        assert offline["PATH"]


@pytest.mark.parametrize("flags", [["--offline"], []])
def test_offline_reaches_the_process(
    flags: list[str], calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(tracking, "environment", lambda *args: seen.append(args) or {})
    config = config_from_flags([*RUN, *flags])
    tracking.Tracking("wandb", tmp_path / "runs" / "row", config).end("interrupted")
    assert seen == [("wandb", tmp_path / "runs" / "tracking" / "wandb", bool(flags))]


def test_a_missing_package_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = importlib.util.find_spec
    for missing in (None, SimpleNamespace(origin=None)):  # a folder of that name is none
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, missing=missing: missing if name == "mlflow" else real(name),
        )
        assert main([*RUN, "--track", "mlflow"]) == 2
        found = capsys.readouterr()
        assert "--track mlflow: the package mlflow is not installed" in found.err
        assert "pip install mlflow" in found.err
        assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["tensorboardx", "no_package.tensorboard"])
def test_what_is_no_tracker_need_not_be_installed(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*RUN, "--track", name]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if name in line)
    assert f'"{name}": no such choice; did you mean "tensorboard"?' in line


def test_flags_settings_and_requirements_name_the_same_trackers() -> None:
    names = set(ACTIONS["track"].values.names)
    assert names == TRACKERS.keys() == SETTINGS.keys()
    lines = (PROJECT / "requirements-track.txt").read_text().splitlines()
    assert {re.split("[<>=]", line)[0] for line in lines if line[0] != "#"} == names


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second time in place of the first
        record = tracked_run(tmp_path, "--track", "tensorboard")
        events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard" / record.folder.name))
        events.Reload()
        steps: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                if not tag.startswith(("final", "epoch")):
                    steps.setdefault(event.step, {})[tag] = event.value
        expected = expected_log(record)
        assert steps == {step: pytest.approx(values) for step, values in expected.items()}
        (final,) = events.Scalars("final/test_accuracy")
        assert final.value == pytest.approx(record.accuracy("test").percent)
