"""A cluster without Ray: where it is, what of its nodes a run takes, which runs share states.

Nothing here needs Ray; ``ray_sweep.py`` does.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablation.classifier.build import count_trained_blocks
from ablation.config.cluster_request import ClusterRequest
from ablation.config.options import ExperimentConfig
from ablation.config.runs import Run
from ablation.finetuning.feature_store import store_folder
from ablation.finetuning.memory import MemoryNeed, count_positions, estimate_memory
from ablation.finetuning.shared_work import SharedWork, prefix_key
from ablation.sweeps.variants import describe_run
from ablation.system.errors import ClusterError

PROBE = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
    print(ray.get_runtime_context().gcs_address)
except Exception as error:
    print(error)
    sys.exit(1)
"""
PROBE_SECONDS = 15.0
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


@dataclass(frozen=True)
class Group:
    """Runs that have hidden states in common, or a single run.

    ``configs`` are of all of them, also of those that are done; ``runs`` are to do.
    """

    runs: Sequence[Run]
    configs: Sequence[ExperimentConfig]

    def memory(self, shared: SharedWork) -> MemoryNeed:
        """What the largest of its runs needs."""
        # Whatever the seed, the texts are the same; and the states are there for all that share.
        configs = {replace(config, seed=0) for config in self.configs}
        counts = {config: count_positions(shared.texts(config), config) for config in configs}
        n_states = max(n_states for _, n_states in counts.values())
        to_do = {replace(run.config, seed=0) for run in self.runs}
        is_shared = len(self.configs) > 1
        needs = [
            estimate_memory(config, counts[config][0], n_states, is_shared=is_shared)
            for config in to_do
        ]
        return max(needs, key=lambda need: need.total)


def make_groups(runs: Sequence[Run], to_do: Sequence[Run]) -> list[Group]:
    """Put together what shares hidden states, of all ``runs`` in :func:`sweep.order_runs`'s order;
    those ``to_do`` have no record."""
    together: dict[Any, list[Run]] = {}
    for run in runs:
        together.setdefault(prefix_key(run.config) or run.name, []).append(run)
    names = {run.name for run in to_do}
    groups = [
        Group([run for run in group if run.name in names], [run.config for run in group])
        for group in together.values()
    ]
    return [group for group in groups if group.runs]


def depth(config: ExperimentConfig) -> int:
    """How many blocks from the last down are not in the hidden states that a run shares. Where all
    are frozen, the run itself keeps of the last one only the position that it reads."""
    return max(count_trained_blocks(config), int(not config.average_embeddings))


def for_nodes(config: ExperimentConfig, device: str) -> ExperimentConfig:
    """The same experiment on the device that it is given, with paths that do not depend on the
    folder of the process."""
    paths = {
        **{name: getattr(config, name) for name in ("weights", "weights_dir")},
        "feature_store": store_folder(config) or "off",
    }
    absolute = {
        name: str(Path(path).absolute())
        for name, path in paths.items()
        if path not in ("pretrained", "random", "off", None)
    }
    return replace(config, device=device, **absolute)


def task_demand(request: ClusterRequest, device: str, nodes: Sequence[Node]) -> dict[str, float]:
    """What every task takes of a node: a GPU, or a part of one, or else cores. ``device`` is
    ``--device``, and ``auto`` is CUDA if a node has a GPU."""
    wants_gpu = request.gpus_per_run is not None or any(node.fits({"GPU": 1}) for node in nodes)
    if device == "cuda" or (device == "auto" and wants_gpu):
        return {"GPU": request.gpus_per_run or 1}
    cores = [int(node.resources["CPU"]) for node in nodes if node.fits({"CPU": 1})]
    return {"CPU": request.cpus_per_run or min(cores, default=1)}


def describe_lack(run: Run, demand: Mapping[str, float], nodes: Sequence[Node]) -> str | None:
    """That no node has what a run takes, what they have, and the way out; none if one has it."""
    if any(node.fits(demand) for node in nodes):
        return None
    lacking = [
        name for name, n in demand.items() if not any(node.fits({name: n}) for node in nodes)
    ]
    ways = ", or ".join(WAYS_OUT[name] for name in lacking or demand)
    have = ", ".join(f"{node.name} ({_describe(node.resources)})" for node in nodes)
    return (
        f"No node of the cluster can ever run {describe_run(run)}, which needs "
        f"{_describe(demand)}. Nodes that are alive: {have or 'none'}. Add a node that can, or "
        f"{ways}."
    )


def _describe(resources: Mapping[str, float]) -> str:
    amounts = [f"{resources[name]:g} {name}" for name in ("GPU", "CPU") if resources.get(name)]
    if "memory" in resources:
        amounts.append(f"{resources['memory'] / 1e9:.1f} GB")
    return " and ".join(amounts) or "nothing"


def find_cluster(address: str) -> str:
    """The address HOST:PORT of the cluster that an address, or ``auto``, leads to.

    ``ray.init`` has time limits of minutes, and can end its process. So it is tried in another.
    """
    command = [sys.executable, "-c", PROBE, address]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
        reason = found.stdout.strip() or f"its exit status is {found.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"no Ray answers within {PROBE_SECONDS:.0f} s"
    else:
        if found.returncode == 0:
            return found.stdout.split()[-1]
    raise ClusterError(
        f"--ray {address}: {reason}. Look with `ray status --address {address}`; start a cluster "
        "with `ray start --head`, and let this machine join it with `ray start --address "
        "HOST:PORT`; or leave the address out."
    )
