"""What a sweep is on a cluster: its tasks, and what of a node each of them takes.

Nothing here needs Ray; ``ray_sweep.py`` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ablation.config.cluster_request import ClusterRequest
from ablation.config.identity import identify
from ablation.config.options import ExperimentConfig
from ablation.config.runs import Run
from ablation.finetuning.memory import count_positions, estimate_memory
from ablation.finetuning.shared_work import SharedWork, prefix_key
from ablation.sweeps.variants import describe_run

WAYS_OUT = {
    "GPU": "take --device cpu",
    "CPU": "take fewer with --cpus_per_run",
    "memory": "take a smaller --batch_size or --model_size, or leave the row out",
}


@dataclass(frozen=True)
class Node:
    """A node of the cluster, and how much of each resource it has: CPU, GPU, memory in bytes."""

    name: str
    resources: Mapping[str, float]

    def fits(self, demand: Mapping[str, float]) -> bool:
        """Whether it has what is demanded, were nothing else on it."""
        return all(self.resources.get(name, 0) >= amount for name, amount in demand.items())

    def count(self, demand: Mapping[str, float]) -> int:
        """How often it has what is demanded, at once."""
        counts = [self.resources.get(name, 0) / amount for name, amount in demand.items()]
        return int(min(counts) + 1e-6)  # ten tenths are one


@dataclass(frozen=True)
class Task:
    """Runs that are computed one after the other, in one process of a node."""

    runs: Sequence[Run]
    # Of all runs that have hidden states in common with these, also in other tasks, or done.
    configs: Sequence[ExperimentConfig]
    demand: Mapping[str, float]  # what it takes of a node

    def fits_any(self, nodes: Iterable[Node]) -> bool:
        """Whether a node has what it takes."""
        return any(node.fits(self.demand) for node in nodes)


def find_demand(request: ClusterRequest, device: str, nodes: Sequence[Node]) -> dict[str, float]:
    """What every task takes of a node: a GPU, or a part of one, or else cores.

    Args:
        device: as ``--device`` has it; ``auto`` is CUDA where a node has a GPU.
    """
    wants_gpu = request.gpus_per_run is not None or any(node.fits({"GPU": 1}) for node in nodes)
    if device == "cuda" or (device == "auto" and wants_gpu):
        return {"GPU": request.gpus_per_run or 1}
    cores = [int(node.resources["CPU"]) for node in nodes if node.fits({"CPU": 1})]
    return {"CPU": request.cpus_per_run or min(cores, default=1)}


def make_tasks(
    runs: Sequence[Run], to_do: Sequence[Run], demand: Mapping[str, float], n_slots: int
) -> list[Task]:
    """Put together what shares hidden states, and leave every other run alone.

    Runs that share make one task, unless it were more than its share of all that is to be done:
    then they make as many as keep the cluster busy, each of which computes the states anew.

    Args:
        runs: all of the sweep, in the order of :func:`sweep.order_runs`.
        to_do: those of them without a record.
        demand: of each task.
        n_slots: how many tasks the cluster can run at once.
    """
    left = {identify(run.config) for run in to_do}
    together: dict[Any, list[Run]] = {}
    for run in runs:
        together.setdefault(prefix_key(run.config) or identify(run.config), []).append(run)
    size = math.ceil(len(to_do) / max(1, n_slots))
    tasks = []
    for group in together.values():
        configs = [run.config for run in group]
        rest = [run for run in group if identify(run.config) in left]
        tasks += [Task(rest[i : i + size], configs, demand) for i in range(0, len(rest), size)]
    return tasks


def demand_memory(tasks: Sequence[Task], shared: SharedWork) -> list[Task]:
    """The same tasks, demanding also the memory that their runs need on a CPU.

    Raises:
        DataError: the texts do not fill a batch.
    """

    @cache
    def positions(config: ExperimentConfig) -> tuple[int, int]:
        return count_positions(shared.texts(config), config)

    def need(task: Task) -> int:
        # Whatever the seed, the texts are the same; and the states are there for all that share.
        configs = [replace(config, seed=0) for config in task.configs]
        n_states = max(positions(config)[1] for config in configs)
        own = {replace(run.config, seed=0) for run in task.runs}
        return max(estimate_memory(c, positions(c)[0], n_states).total for c in own)

    return [replace(task, demand={**task.demand, "memory": need(task)}) for task in tasks]


def describe_lack(task: Task, nodes: Sequence[Node]) -> str:
    """That no node has what a task takes, what they have, and the way out."""
    lacking = [
        name
        for name, amount in task.demand.items()
        if not any(node.fits({name: amount}) for node in nodes)
    ]
    ways = ", or ".join(WAYS_OUT[name] for name in lacking or task.demand)
    have = ", ".join(f"{node.name} ({_describe(node.resources)})" for node in nodes)
    return (
        f"No node of the cluster can ever run {describe_run(task.runs[0])}, which needs "
        f"{_describe(task.demand)}. Nodes that are alive: {have or 'none'}. Add a node that can, "
        f"or {ways}."
    )


def describe_silence(seconds: float, n_tasks: int) -> str:
    """That nothing was heard of the tasks that are left, and what that may mean."""
    return (
        f"Nothing was heard of the cluster for {seconds:g} seconds, and {n_tasks} tasks are left: "
        "other work may fill it, or its processes hang; `ray status` shows which. What is "
        "complete is recorded; the same command goes on from there."
    )


def _describe(resources: Mapping[str, float]) -> str:
    amounts = [f"{resources[name]:g} {name}" for name in ("GPU", "CPU") if resources.get(name)]
    if "memory" in resources:
        amounts.append(f"{resources['memory'] / 1e9:.1f} GB")
    return " and ".join(amounts) or "nothing"
