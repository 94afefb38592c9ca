"""A sweep on two nodes on one machine: the records of a local sweep, whatever is lost."""

import json
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from helpers import PATCHED, SCRIPT, environment_without_network, make_result, read_until
from ray.cluster_utils import Cluster

from ablation.config.command_line import parse_command_line
from ablation.config.runs import RESULT_NAME
from ablation.data.corpora import load_corpus, load_encoding
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps.ray_sweep import Outcome, _record, compute_run, compute_states
from ablation.sweeps.records import read_records
from ablation.sweeps.sweep import order_runs
from gpt_model import GPTModel

pytestmark = pytest.mark.slow

SWEEP = ["--demo", "--rows", "1-3,5,11,16,17", "--num_seeds", "2", "--max_steps", "60"]
N_RUNS = 14
LIMIT = 240  # seconds, after which a test calls a command hanging
OF_THE_MACHINE = ("seconds", "peak_memory_bytes", "device", "states")


def start(folder: Path, *flags: str, settings: dict | None = None) -> subprocess.Popen:
    """The script, with other limits if there are settings."""
    script = [PATCHED, json.dumps(settings)] if settings else [SCRIPT]
    return subprocess.Popen(
        [sys.executable, *script, *flags, "--output_dir", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_without_network(folder, OMP_NUM_THREADS="1"),
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def read_all(folder: Path) -> dict[str, tuple[bytes, dict]]:
    """Predictions and result of each run, without what belongs to its machine and its time."""
    found = {}
    for path in folder.glob(f"*/{RESULT_NAME}"):
        result = json.loads(path.read_bytes())
        for name in OF_THE_MACHINE:
            del result[name]
        found[path.parent.name] = ((path.parent / "predictions.csv").read_bytes(), result)
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, dict]]:
    """The records of the sweep without Ray."""
    folder = tmp_path_factory.mktemp("local")
    assert finish(start(folder, *SWEEP))[0] == 0
    records = read_all(folder)
    assert len(records) == N_RUNS
    return records


@contextmanager
def cluster_of(n_cores: int) -> Iterator[Cluster]:
    """A head of so many cores, and no other node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": n_cores})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head of one core, and a node of one core."""
    with cluster_of(1) as cluster:
        cluster.add_node(num_cpus=1)
        yield cluster


@pytest.mark.faults("a node or a worker of a cluster lost")
@pytest.mark.parametrize("lost", ["node", "worker"])
def test_what_is_lost_is_run_again(
    lost: str, nodes: Cluster, local: dict[str, tuple[bytes, dict]], tmp_path: Path
) -> None:
    process = start(tmp_path / "runs", *SWEEP, "--ray", nodes.address, "--cpus_per_run", "1")
    if lost == "worker":
        find_workers("states")[0].kill()
    read_until(process, "Test accuracy", number=3)
    if lost == "node":
        nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
    else:
        find_workers("run")[0].kill()
    status, out, err = finish(process)
    assert status == 0, err
    assert read_all(tmp_path / "runs") == local
    assert len(set(re.findall(r"^Run (\d+) of 14", err, re.MULTILINE))) == N_RUNS
    assert out.count("Test accuracy:") == N_RUNS - 3, "no run came twice"
    status, out, err = finish(start(tmp_path / "runs", *SWEEP, "--ray", nodes.address))
    assert (status, out.count("Test accuracy:")) == (0, 0), "what is complete is not repeated"


def find_workers(*names: str, limit: float = 60) -> list[psutil.Process]:
    """The processes of Ray, below this test, that are at work at tasks of these names."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        below = psutil.Process().children(recursive=True)
        if found := [process for process in below if is_at_work(process, names)]:
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing is at work at {names}")


def is_at_work(process: psutil.Process, names: tuple[str, ...]) -> bool:
    try:
        return process.cmdline()[:1] in [[f"ray::{name}"] for name in names]
    except psutil.Error:  # it has just ended
        return False


def test_tasks_do_not_share_cores(tmp_path: Path) -> None:
    """Ray lends the cores of a task that waits for an answer to the next."""
    flags = ["--demo", "--rows", "1,5,16", "--num_seeds", "2", "--max_steps", "60"]
    n_at_work = []
    with cluster_of(1) as cluster:
        process = start(tmp_path, *flags, "--ray", cluster.address)
        while process.poll() is None:
            below = psutil.Process().children(recursive=True)
            n_at_work.append(sum(is_at_work(child, ("states", "run")) for child in below))
            time.sleep(0.05)
        status, out, err = finish(process)
    assert (status, out.count("Test accuracy:")) == (0, 6), err
    assert max(n_at_work) == 1


@pytest.mark.faults("a worker of a cluster that hangs")
def test_a_hanging_worker_ends_the_sweep(
    local: dict[str, tuple[bytes, dict]], tmp_path: Path
) -> None:
    settings = {"ablation.sweeps.ray_sweep": {"SILENT_SECONDS": 100}}
    flags = [*SWEEP, "--ray", "--cpus_per_run", "1"]
    process = start(tmp_path / "runs", *flags, settings=settings)
    read_until(process, "Test accuracy", number=2)
    children = psutil.Process(process.pid).children(recursive=True)
    stopped = find_workers("run", "states")
    for worker in stopped:
        worker.suspend()
    status, _, err = finish(process)
    assert status == 1
    assert "No run has ended for 0.0278 hours" in err
    _, alive = psutil.wait_procs([*stopped, *children], timeout=60)
    assert not alive
    found = read_all(tmp_path / "runs")
    assert 2 <= len(found) < N_RUNS
    assert found.items() <= local.items()


@pytest.mark.faults("the head of a cluster lost")
def test_a_lost_head_ends_the_sweep(local: dict[str, tuple[bytes, dict]], tmp_path: Path) -> None:
    settings = {"ablation.sweeps.ray_sweep": {"ANSWER_SECONDS": 10}}
    process = start(tmp_path / "runs", *SWEEP, "--ray", settings=settings)
    read_until(process, "Test accuracy", number=2)
    children = psutil.Process(process.pid).children(recursive=True)
    (head,) = (child for child in children if child.name() == "gcs_server")
    head.kill()
    status, _, err = finish(process)
    assert status == 1
    assert "Ray does not answer any more (its head is gone)" in err
    assert read_all(tmp_path / "runs").items() <= local.items()


@pytest.mark.faults("machines that differ")
@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("numpy-0.1.dist-info/METADATA", "Name: numpy\nVersion: 0.1\n", "has numpy 0.1, and this"),
        (
            "safetensors.py",
            "raise ImportError('no safetensors')",
            "lacks a package (no safetensors)",
        ),
    ],
)
def test_a_node_with_other_packages_is_named(
    path: str, content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "packages" / path
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with cluster_of(0) as cluster:
        cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "packages")})
        status, out, err = finish(start(tmp_path / "runs", *SWEEP, "--ray", cluster.address))
    assert (status, out) == (1, "")
    assert message in err
    assert "alike on all nodes" in err


def test_states_are_computed_once_and_taken_further(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = order_runs(parse_command_line(["--demo", "--rows", "1,3,4", "--max_steps", "2"]).runs)
    configs = [run.config for run in runs]
    embedded = []
    real = GPTModel.embed
    monkeypatch.setattr(
        GPTModel, "embed", lambda model, tokens: embedded.append(1) or real(model, tokens)
    )
    texts = pickle.dumps((load_corpus(configs[0]), load_encoding(configs[0])))
    states, shared = None, SharedWork(configs, *pickle.loads(texts))
    for config in configs:
        expected = run_experiment(config, shared)
        embedded.clear()
        states = compute_states(configs, config, texts, states)
        assert bool(embedded) == (config is configs[0])
        embedded.clear()
        outcome = compute_run(configs, config, False, texts, states)
        assert not embedded
        assert torch.equal(outcome.result.test.logits, expected.test.logits)


def test_states_that_fail_are_left_to_the_runs() -> None:
    (run,) = parse_command_line(["--demo", "--max_steps", "2"]).runs
    assert compute_states([run.config], run.config, b"damaged") is None
    texts = pickle.dumps((load_corpus(run.config), load_encoding(run.config)))
    assert compute_run([run.config], run.config, False, texts, None).result


def test_a_model_that_is_not_kept_fails_its_run_alone(tmp_path: Path) -> None:
    (run,) = parse_command_line(["--demo"]).runs
    result = replace(make_result([0, 1], [0, 1]), not_kept={"model": "no room"})
    outcome = Outcome("a", 1.0, result, files={"model.safetensors": b"123"})
    problem = _record(run, outcome, tmp_path, None, load_corpus(run.config), "Run 1 of 1")
    assert problem.startswith("no room The run is complete")
    (record,) = read_records(tmp_path)
    assert record.is_complete
    assert record.result["not_kept"] == {"model": "no room"}
    assert (record.folder / "model.safetensors").read_bytes() == b"123"


@pytest.mark.faults("a node that cannot run a task")
def test_a_task_that_no_node_can_run(nodes: Cluster, tmp_path: Path) -> None:
    for flags, message in (
        (["--device", "cuda"], "needs 1 GPU"),
        (["--cpus_per_run", "64"], "needs 64 CPU"),
    ):
        status, out, err = finish(start(tmp_path, *SWEEP, "--ray", nodes.address, *flags))
        assert (status, out) == (1, "")
        assert message in err


@pytest.mark.faults("an address without a cluster")
@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_answers(listens: bool, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:  # and takes connections, and says nothing
            other.listen()
            threading.Thread(target=accept_all, args=(other,), daemon=True).start()
        started = time.monotonic()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, out, err = finish(start(tmp_path, *SWEEP, "--ray", address))
    assert (status, out) == (1, "")
    assert f"--ray {address}" in err
    assert time.monotonic() - started < 30, "20 s, and the start"


def accept_all(server: socket.socket) -> None:
    connections = []
    try:
        while True:
            connections.append(server.accept())
    except OSError:  # it was closed
        pass


@pytest.mark.faults("signals to a sweep on a cluster")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_ray_behind(
    number: signal.Signals, local: dict[str, tuple[bytes, dict]], tmp_path: Path
) -> None:
    process = start(tmp_path / "runs", *SWEEP, "--ray")
    read_until(process, "Test accuracy", number=2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in children)
    process.send_signal(number)
    status, _, _ = finish(process)
    assert status == 128 + number
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    found = read_all(tmp_path / "runs")
    assert 2 <= len(found) < N_RUNS
    assert found.items() <= local.items()


def test_a_run_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    flags = ["--demo", "--rows", "14,15,16", "--ignore_index", "1", "--max_steps", "9"]
    assert finish(start(tmp_path, *flags, "--ray"))[0] == 1
    results = [json.loads(path.read_bytes()) for path in tmp_path.glob(f"*/{RESULT_NAME}")]
    errors = [result["error"] for result in results if result["status"] == "failed"]
    assert (len(errors), len(results)) == (2, 3), "one text of that class has no loss, eight do"
    assert all("not finite" in error for error in errors)
