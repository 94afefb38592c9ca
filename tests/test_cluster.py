"""What a sweep asks of a cluster, without Ray."""

import re
from dataclasses import replace

import pytest

from ablation.config import cluster_request
from ablation.config.cluster_request import ClusterRequest
from ablation.config.command_line import parse_command_line
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.config.tables import configure
from ablation.finetuning.memory import count_positions, estimate_memory
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps.cluster import (
    Node,
    depth,
    describe_lack,
    make_groups,
    task_demand,
)
from ablation.sweeps.sweep import order_runs
from ablation.system.errors import ConfigError

SHARING = {1, 2, 3, 4, 14, 15, 16, 18, 19}
SMALL = Node("small", {"CPU": 2.0, "memory": 4e9})
LARGE = Node("large", {"CPU": 16.0, "GPU": 2.0, "memory": 64e9})


def make_runs(*rows: int, seeds: tuple[int, ...] = (1,)) -> list[Run]:
    configs = [configure(ROWS[row], {}) for row in rows]
    return order_runs([Run(replace(config, seed=seed)) for config in configs for seed in seeds])


@pytest.mark.parametrize(
    ("device", "request_", "nodes", "demand"),
    [
        ("auto", ClusterRequest(), [SMALL], {"CPU": 2}),
        ("auto", ClusterRequest(), [SMALL, replace(SMALL, resources={"CPU": 8.0})], {"CPU": 2}),
        ("auto", ClusterRequest(cpus_per_run=1), [SMALL], {"CPU": 1}),
        ("auto", ClusterRequest(), [SMALL, LARGE], {"GPU": 1}),
        ("auto", ClusterRequest(gpus_per_run=0.5), [SMALL, LARGE], {"GPU": 0.5}),
        ("cuda", ClusterRequest(), [SMALL], {"GPU": 1}),
        ("cpu", ClusterRequest(), [SMALL, LARGE], {"CPU": 2}),
        ("auto", ClusterRequest(), [Node("driver", {"CPU": 0.0}), LARGE], {"GPU": 1}),
    ],
)
def test_what_a_task_takes(
    device: str, request_: ClusterRequest, nodes: list[Node], demand: dict[str, float]
) -> None:
    found = task_demand(request_, device, nodes)
    assert {name: found[name] for name in ("GPU", "CPU") if name in found} == demand


def test_what_a_node_has_room_for() -> None:
    assert LARGE.fits({"GPU": 2})
    assert not SMALL.fits({"GPU": 0.1})


def test_a_lack_names_what_there_is_and_the_way_out() -> None:
    (run,) = make_runs(16)
    message = describe_lack(run, {"GPU": 1}, [SMALL])
    assert "Row 16, seed 1, which needs 1 GPU" in message
    assert "small" in message
    assert "--device cpu" in message
    assert "none" in describe_lack(run, {"CPU": 4}, [])
    assert "--cpus_per_run" in describe_lack(run, {"CPU": 4}, [SMALL])
    message = describe_lack(run, {"CPU": 1, "memory": 5e9}, [SMALL])
    assert "5.0 GB" in message
    assert "--batch_size" in message
    assert describe_lack(run, {"CPU": 1, "memory": 5e9}, [SMALL, LARGE]) is None


def test_a_group_asks_for_the_memory_of_its_largest_run() -> None:
    configs = [configure(ROWS[row], {"demo": True}) for row in (1, 5, 16)]
    runs = order_runs([Run(replace(config, seed=seed)) for config in configs for seed in (1, 2)])
    shared = SharedWork(configs)
    groups = make_groups(runs, runs)
    assert sum(len(group.runs) for group in groups) == 6
    for group in groups:
        needs = [
            estimate_memory(config, *count_positions(shared.texts(config), config)).total
            for config in group.configs
        ]
        assert max(needs) <= group.memory(shared).total < 1.5 * max(needs)


def test_runs_that_share_states_are_one_group() -> None:
    runs = make_runs(*ROWS)
    rows = [{run.row for run in group.runs} for group in make_groups(runs, runs)]
    assert SHARING in rows
    assert sum(map(len, rows)) == len(runs)
    assert {5} in rows
    assert {17} in rows, "other states"


def test_what_is_done_is_left_out_and_known_to_the_others() -> None:
    runs = make_runs(1, 2, 16)
    done = next(run for run in runs if run.row == 1)
    (group,) = make_groups(runs, [run for run in runs if run is not done])
    assert done not in group.runs
    assert done.config in group.configs, "so that the others find the states that they would have"


def test_many_seeds_share_one_computation_of_states() -> None:
    runs = make_runs(1, 16, seeds=tuple(range(40)))
    assert [len(group.runs) for group in make_groups(runs, runs)] == [80]


def test_states_are_of_as_many_blocks_as_no_run_trains() -> None:
    (group,) = make_groups(make_runs(1, 3, 4, 19), make_runs(1, 3, 4, 19))
    assert [depth(config) for config in group.configs] == [2, 1, 1, 1]
    assert depth(replace(ROWS[3].config, average_embeddings=True)) == 0, "read at every position"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--ray nonsense", "not HOST:PORT"),
        ("--ray 10.0.0.1:6379:1", "not HOST:PORT"),
        ("--gpus_per_run 1", "--gpus_per_run without --ray"),
        ("--cpus_per_run 1", "--cpus_per_run without --ray"),
        ("--ray --gpus_per_run 0", "not a number from 0.0001 to 1"),
        ("--ray --gpus_per_run 2", "to 1"),
        ("--ray --gpus_per_run 1 --device cpu", "leave one of them out"),
        ("--ray --device mps", "--device mps with --ray"),
        ("--ray --cpus_per_run 0", "not a whole number of at least 1"),
        ("--ray --cpus_per_run 1 --device cuda", "leave one of them out"),
        ("--ray --resume", "--resume with --ray"),
        ("--ray --checkpoint_every 5", "--checkpoint_every with --ray"),
        ("--ray --trainable_token_pos flexible --export_hf a", "--export_hf with many runs"),
        ("--ray --report", "--ray with --report"),
    ],
)
def test_what_has_no_sense_is_wrong_usage(flags: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_command_line(flags.split())


def test_without_ray_the_flag_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_request.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -r requirements-ray\.txt"):
        parse_command_line(["--demo", "--ray"])
    assert parse_command_line(["--demo", "--ray", "--dry_run"]).dry_run


def test_two_engines_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    for name, value in {**facts, "TORCHELASTIC_RUN_ID": "a"}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match="two engines at once"):
        parse_command_line(["--demo", "--ray"])


def test_the_machine_that_asks_needs_no_gpu() -> None:
    request = parse_command_line(["--rows", "1,2", "--device", "cuda", "--ray", "10.0.0.1:6379"])
    assert {run.config.device for run in request.runs} == {"cuda"}
    with pytest.raises(ConfigError, match="no such device here"):
        parse_command_line(["--rows", "1,2", "--device", "cuda"])
