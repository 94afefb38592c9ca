"""What --ray and the flags that belong to it ask for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablation.system.errors import shorten
from ablation.system.processes import is_launched

LEAST_GPU = 0.0001  # that Ray can give
LOCAL = "local"  # the address of a Ray that is started for the sweep alone
INSTALL = "pip install -r requirements-ray.txt"
# Flags that are of no use with --ray, and why.
USELESS = {
    "resume": "a run that is lost begins anew, on any node, so there is no checkpoint to go on "
    "from; what is complete is never repeated",
    "checkpoint_every": "a run that is lost begins anew, on any node, so no checkpoint is written",
}


@dataclass(frozen=True)
class ClusterRequest:
    """Which Ray is to run a sweep, and what each of its tasks may take."""

    address: str = LOCAL  # or HOST:PORT, or auto
    gpus_per_run: float | None = None  # of each task, where GPUs are used; by default 1
    cpus_per_run: int | None = None  # where none are; by default all of the smallest node


def parse_cluster(
    asked: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[ClusterRequest | None, list[str]]:
    """The cluster that --ray and what belongs to it ask for, and a problem for each of these flags
    that is wrong."""
    needing = [name for name in ("gpus_per_run", "cpus_per_run") if name in asked]
    if "ray" not in asked:
        return None, [
            f"--{name} without --ray: there are no tasks; leave it out" for name in needing
        ]
    address, problems = asked["ray"], []
    if address not in (LOCAL, "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        problems.append(
            f'--ray "{shorten(address)}": not HOST:PORT, as 10.0.0.1:6379, and not auto, which is '
            "the cluster that this machine is in; --ray alone starts Ray on this machine"
        )
    gpus, cpus = asked.get("gpus_per_run"), asked.get("cpus_per_run")
    if gpus is not None and not _is_part(gpus):
        problems.append(
            f"--gpus_per_run {shorten(gpus)}: not a number from {LEAST_GPU} to 1; a run uses "
            "one GPU at most"
        )
    elif gpus is not None and given.get("device") == "cpu":
        problems.append("--gpus_per_run with --device cpu: leave one of them out")
    if cpus is not None and not (re.fullmatch(r"\d{1,4}", cpus) and int(cpus)):
        problems.append(f"--cpus_per_run {shorten(cpus)}: not a whole number of at least 1")
    elif cpus is not None and given.get("device") == "cuda":
        problems.append("--cpus_per_run with --device cuda: leave one of them out")
    if given.get("device") == "mps":
        problems.append("--device mps with --ray: of GPUs, Ray knows CUDA's; take --device cpu")
    problems += [f"--{name} with --ray: {why}" for name, why in USELESS.items() if name in asked]
    if is_launched():
        problems.append(
            "--ray under torchrun: two engines at once; a sweep goes to Ray without torchrun, and "
            "one run to torchrun without --ray"
        )
    if "dry_run" not in asked and importlib.util.find_spec("ray") is None:
        problems.append(f"--ray: Ray is not installed; {INSTALL}")
    if problems:
        return None, problems
    return ClusterRequest(address, gpus and float(gpus), cpus and int(cpus)), []


def _is_part(text: str) -> bool:
    """Whether it is a number of GPUs that a run can take."""
    return bool(re.fullmatch(r"\d*\.?\d+", text)) and LEAST_GPU <= float(text) <= 1
