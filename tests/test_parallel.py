"""One run on several processes of torchrun: what one process makes of it, and no hang."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import PATCHED, SCRIPT, environment_without_network, read_until

from ablation.classifier.tensor_files import read_tensors
from ablation.config.command_line import parse_command_line
from ablation.config.rows import ROWS
from ablation.finetuning.checkpoints import CHECKPOINT_NAME
from ablation.sweeps.records import Record, read_records
from ablation.system import parallel
from ablation.system.errors import ConfigError
from ablation.system.processes import Place
from ablation.system.version import PROJECT, code_files
from data_utils import Batch

FEW = ["--demo", "--max_steps", "6", "--eval_freq", "2"]
LONG = ["--demo", "--num_epochs", "15", "--eval_freq", "50", "--checkpoint_every", "20"]
LIMIT = 120  # seconds, after which a test calls a command hanging


def start(command: list[str], n_processes: int, *options: str) -> subprocess.Popen:
    """A command under torchrun, by default on one machine, or, with no processes, alone."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    launcher += [] if "--nnodes" in options else ["--standalone"]
    launcher += ["--nproc_per_node", str(n_processes), *options]
    return subprocess.Popen(
        [*(launcher if n_processes else [sys.executable]), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_network(Path.cwd(), OMP_NUM_THREADS="1"),
    )


def run(*flags: object, n_processes: int = 2, options: tuple[str, ...] = ()) -> tuple:
    """Exit status, standard output and standard error of the script."""
    return finish(start([SCRIPT, *flags], n_processes, *options))


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT)
    assert "[rank" not in err, f"a traceback of a process:\n{err}"
    return process.returncode, out, err


def worker(process: subprocess.Popen, rank: int) -> psutil.Process:
    """One of the processes that torchrun started."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child
    raise AssertionError(f"no process {rank}")


def losses(record: Record) -> np.ndarray:
    return np.array(
        [(loss["train"], loss["validation"]) for loss in record.result["history"]["losses"]]
    )


def assert_same(found: Record, expected: Record, tolerance: float = 1e-5) -> None:
    assert found.is_complete
    np.testing.assert_allclose(losses(found), losses(expected), rtol=0, atol=tolerance)
    for key in ("accuracy", "data", "parameters", "test"):
        assert found.result[key] == expected.result[key]
    epochs = [record.result["history"]["epoch_accuracies"] for record in (found, expected)]
    assert epochs[0] == epochs[1]
    assert found.predictions["prediction"].equals(expected.predictions["prediction"])
    np.testing.assert_allclose(
        found.predictions["probability"], expected.predictions["probability"], atol=10 * tolerance
    )


def without_minutes(out: str) -> list[str]:
    return [line for line in out.splitlines() if "minutes" not in line]


def explanations(err: str) -> list[str]:
    return re.findall(
        r"^(?:In process .*: )?(?:Error|Nothing was started|Interrupted).*", err, re.M
    )


# ---------------------------------------------------------------- equal to one process

ROW_FLAGS = [["--rows", str(number), "--model_size", "gpt2-tiny (3M)"] for number in ROWS]
MORE_FLAGS = [
    ["--no_feature_reuse"],
    ["--rows", "14", "--no_feature_reuse"],
    ["--rows", "15", "--no_feature_reuse", "--disable_causal_mask"],
    ["--rows", "15", "--trainable_layers", "all"],
    ["--rows", "14", "--disable_causal_mask"],
    ["--rows", "3", "--no_padding", "--batch_size", "1", "--disable_causal_mask"],
    ["--rows", "4", "--feature_memory", "0"],
    ["--rows", "11", "--accumulation_steps", "3"],
    ["--rows", "5", "--batch_size", "5"],
    ["--ignore_index", "1"],
    ["--rows", "15", "--class_weights", "balanced", "--keep_best"],
    ["--keep_best", "--stop_after", "1", "--learning_rate", "2e-3", "--num_epochs", "4"],
]


def perform_all(folder: Path, n_processes: int) -> list[Record]:
    """The records of all rows and more, made by one launch."""
    commands = [[*flags, *FEW, "--output_dir", str(folder)] for flags in [*ROW_FLAGS, *MORE_FLAGS]]
    process = start([PATCHED, json.dumps({"commands": commands})], n_processes)
    out, err = process.communicate(timeout=4 * LIMIT)
    assert process.returncode == 0, err
    assert "[0," in out
    assert not re.search(r"\[[12], ", out), out
    return sorted(read_records(folder), key=lambda record: record.folder.name)


@pytest.mark.slow
def test_all_rows_on_two_and_three_processes(tmp_path: Path) -> None:
    alone = perform_all(tmp_path / "alone", n_processes=0)
    assert len(alone) > 20
    for n_processes in (2, 3):
        together = perform_all(tmp_path / str(n_processes), n_processes)
        assert len(together) == len(alone)
        for found, expected in zip(together, alone, strict=True):
            assert found.folder.name == expected.folder.name
            assert_same(found, expected)
            assert found.result["device"]["processes"] == n_processes


@pytest.mark.slow
def test_the_first_process_prints_and_writes(tmp_path: Path) -> None:
    flags = [*FEW, "--save_model", "--output_dir", tmp_path / "runs"]
    settings = json.dumps({"ablation.system.progress": {"LINE_SECONDS": 0}})
    status, out, err = finish(start([PATCHED, settings, *flags], 2))
    assert status == 0, err
    assert err.count("training: 6 of 6 steps") == 1
    _, alone, _ = run(*flags, n_processes=0)
    assert without_minutes(out) == without_minutes(alone)
    assert err.count("Demo: the messages are synthetic") == 1
    (record,) = read_records(tmp_path / "runs")
    names = ["config.json", "model.safetensors", "predictions.csv", "result.json"]
    assert sorted(path.name for path in record.folder.iterdir()) == names


# ---------------------------------------------------------------- processes that end


@pytest.mark.slow
@pytest.mark.faults("a process of torchrun killed", 3)
def test_killed_and_resumed_on_other_numbers_of_processes(tmp_path: Path) -> None:
    assert run(*LONG, "--output_dir", tmp_path / "whole", n_processes=0)[0] == 0
    (whole,) = read_records(tmp_path / "whole")
    flags = [SCRIPT, *LONG, "--resume", "--output_dir", tmp_path / "killed"]
    steps = []
    for n_processes, rank, step in ((2, 1, 100), (3, 0, 250), (2, 0, 350)):
        process = start(flags, n_processes)
        read_until(process, f"Step {step:06d}")
        worker(process, rank).kill()
        status, _, err = finish(process)
        assert status == 1
        assert len(explanations(err)) == 1, err
        # The other process may meet torchrun's signal before it misses the one that is gone.
        assert re.search("Another process of this run ended|Interrupted", explanations(err)[0])
        assert "--resume" in explanations(err)[0]
        (folder,) = (tmp_path / "killed").iterdir()
        steps.append(read_tensors(folder / CHECKPOINT_NAME)[0]["step"])
    assert steps == sorted(steps)
    assert steps[0] >= 100
    assert steps[-1] >= 340
    status, _, err = run(*flags[1:], n_processes=0)
    assert status == 0
    assert "Continuing after step" in err
    (killed,) = read_records(tmp_path / "killed")
    assert_same(killed, whole)


@pytest.mark.slow
@pytest.mark.faults("a process of torchrun killed")
def test_torchrun_starts_them_again(tmp_path: Path) -> None:
    assert run(*LONG, "--output_dir", tmp_path / "whole", n_processes=0)[0] == 0
    flags = [SCRIPT, *LONG, "--resume", "--output_dir", tmp_path / "restarted"]
    process = start(flags, 2, "--max_restarts", "2")
    read_until(process, "Step 000200")
    worker(process, 1).kill()
    status, out, err = finish(process)
    assert status == 0, err
    assert "Continuing after step" in err
    assert "Step 000000" in out, "what was printed before is printed again"
    ((whole,), (restarted,)) = (read_records(tmp_path / name) for name in ("whole", "restarted"))
    assert_same(restarted, whole)


@pytest.mark.slow
@pytest.mark.faults("a machine of torchrun, or a process there, lost")
@pytest.mark.parametrize(("lost", "n_nodes"), [("all", "1:2"), ("process", "2")])
def test_what_is_lost_on_another_machine(lost: str, n_nodes: str, tmp_path: Path) -> None:
    """Two of torchrun, as on two machines, with nothing in common but the address of the first.

    Where a whole machine is lost, the run goes on on the other. Where only a process is, both start
    theirs anew, of which only one may count it as a restart.
    """
    assert run(*LONG, "--output_dir", tmp_path / "whole", n_processes=0)[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--nnodes", n_nodes, "--max_restarts", "3", "--rdzv_id", "test")
    options += ("--rdzv_backend", "c10d", "--rdzv_endpoint", address)
    flags = [SCRIPT, *LONG, "--resume", "--output_dir"]
    first = start([*flags, tmp_path / "first"], 1, *options)
    wait_for_server(address)
    second = start([*flags, tmp_path / "second"], 1, *options)
    read_until(first, "Step 000200")
    for process in [second] * (lost == "all") + [worker(second, 1)]:
        process.kill()
    second.communicate(timeout=LIMIT)
    status, _, err = finish(first)
    assert status == 0, err
    assert len(explanations(err)) == 1
    assert "Continuing after step" in err
    assert not (tmp_path / "second").exists()
    ((whole,), (found,)) = (read_records(tmp_path / name) for name in ("whole", "first"))
    assert found.result["device"]["processes"] == (1 if lost == "all" else 2)
    assert_same(found, whole)


def wait_for_server(address: str) -> None:
    """Until something answers at an address."""
    host, port = address.split(":")
    for _ in range(10 * LIMIT):
        try:
            socket.create_connection((host, int(port))).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError(f"nothing answers at {address}")


@pytest.mark.slow
@pytest.mark.faults("a process of torchrun that hangs")
def test_a_hanging_process_ends_the_run(tmp_path: Path) -> None:
    settings = json.dumps({"ablation.system.parallel": {"TIME_LIMIT": 5}})
    process = start([PATCHED, settings, *LONG, "--output_dir", tmp_path], 2)
    read_until(process, "Step 000050")
    stopped = worker(process, 1)
    stopped.suspend()
    started = time.monotonic()
    status, _, err = finish(process)
    assert status == 1
    assert "did not answer within 5 seconds" in err
    assert time.monotonic() - started < 60
    assert not stopped.is_running()


@pytest.mark.slow
@pytest.mark.faults("signals to torchrun")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_after_the_same_step(number: signal.Signals, tmp_path: Path) -> None:
    flags = ["--demo", "--num_epochs", "8", "--eval_freq", "50", "--output_dir", tmp_path]
    process = start([SCRIPT, *flags], 2)
    read_until(process, "Step 000100")
    process.send_signal(number)
    status, _, err = finish(process)
    assert status != 0
    assert "Interrupted. With --resume" in err
    assert len(explanations(err)) == 1
    (record,) = read_records(tmp_path)
    assert record.result["status"] == "interrupted"
    assert read_tensors(record.folder / CHECKPOINT_NAME)[0]["step"] > 100
    status, _, err = run(*flags, "--resume")
    assert status == 0
    assert "Continuing after step" in err


# ---------------------------------------------------------------- processes that do not fit

DIFFERENT = {
    "flags": ("--demo --seed $RANK", "--seed is 1 in process 1 of 2"),
    "code": ("--demo", "code is"),
    "data": ("--dataset $RANK.csv", "data is"),
}


@pytest.mark.slow
@pytest.mark.faults("machines that differ")
@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.skipif("TIKTOKEN_CACHE_DIR" not in os.environ, reason="needs GPT-2's vocabulary")
def test_processes_that_differ_are_told_how(what: str, tmp_path: Path) -> None:
    flags, message = DIFFERENT[what]
    for rank in range(2):
        Path(f"{rank}.csv").write_text("Label,Text\n" + f"a,b\nc,{rank}\n" * 30)
        copied = tmp_path / str(rank)
        copied.mkdir()
        data = [*PROJECT.glob("ablation/**/*.json"), *PROJECT.glob("ablation/**/*.toml")]
        for path in [*code_files(), *data]:
            copy = copied / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    if what == "code":
        (tmp_path / "1" / "lora.py").open("a").write("# another version\n")
    script = f"{sys.executable} {tmp_path}/$RANK/{SCRIPT.name}"
    command = f'{script} {flags} --model_size "gpt2-tiny (3M)" --weights random'
    process = start(["bash", "-c", f"{command} --output_dir {tmp_path / 'runs'}"], 2, "--no_python")
    status, out, err = finish(process)
    assert (status, out) == (1, "")
    (explained,) = explanations(err)
    assert message in explained
    assert "All need the same" in explained


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have this process take itself for one of several of torchrun."""

    def pretend(n_processes: int) -> None:
        facts = {"RANK": 1, "WORLD_SIZE": n_processes, "LOCAL_RANK": 1, "TORCHELASTIC_RUN_ID": "a"}
        facts |= {"LOCAL_WORLD_SIZE": n_processes}
        for name, value in facts.items():
            monkeypatch.setenv(name, str(value))

    return pretend


@pytest.mark.parametrize(
    ("n_processes", "flags", "message"),
    [
        (9, "--demo", "an update has only 8 texts"),
        (17, "--demo --accumulation_steps 2", "start at most 16 processes"),
        (2, "--demo --rows 1,2", "many runs with torchrun"),
        (2, "--demo --num_seeds 2", "many runs with torchrun"),
        (2, "--demo --dry_run", "--dry_run with torchrun"),
        (2, "--report", "--report with torchrun"),
        (2, "--compare a b", "--compare with torchrun"),
        (2, "--rows 99", "no such row"),
        (2, "--device gpu", "no such choice"),
    ],
)
def test_what_does_not_fit_is_wrong_usage(
    n_processes: int, flags: str, message: str, launched: Callable[[int], None]
) -> None:
    launched(n_processes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_command_line(flags.split())


def test_what_fits_is_accepted(launched: Callable[[int], None]) -> None:
    launched(8)
    parse_command_line(["--demo"])
    parse_command_line(["--demo", "--no_padding", "--batch_size", "1"])  # shares all but updates


def test_a_gpu_for_each_process(
    launched: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (problem,) = parallel.launch_problems(torch.device("cuda"), n_texts=8)
    assert "this machine has 2 (cuda); start 2" in problem.sentence
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert not [*parallel.launch_problems(torch.device("cuda"), n_texts=8)]


@pytest.mark.slow
@pytest.mark.faults("wrong usage under torchrun")
def test_wrong_usage_is_explained_once(tmp_path: Path) -> None:
    status, out, err = run("--demo", "--batchsize", "2", "--rows", "1,2", "--output_dir", tmp_path)
    assert (status, out) == (1, ""), "torchrun's own status"
    assert len(explanations(err)) == 1
    assert err.count("did you mean --batch_size") == 1
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the pieces, in one process


def test_a_share_of_a_batch_is_as_wide_as_its_widest_text() -> None:
    inputs = torch.arange(12).view(3, 4)
    lengths = torch.tensor([1, 4, 2])
    batch = Batch(inputs, lengths, lengths, torch.tensor([0, 1, 0]), n_blocks=2)
    share = batch.rows(torch.tensor([0, 2]))
    assert share.inputs.tolist() == [[0, 1], [8, 9]]
    assert share.lengths.tolist() == [1, 2]
    assert share.labels.tolist() == [0, 0]
    assert share.n_blocks == 2


def test_without_torchrun_nothing_is_shared() -> None:
    assert parallel.place() == Place(0, 1, 0, 1)
    parallel.require_same(lambda: pytest.fail("nothing is to be compared"))
    value = object()
    assert parallel.from_first(value) is value
    assert parallel.largest(-3) == -3
