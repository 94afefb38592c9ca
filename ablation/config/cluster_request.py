"""What --ray and the flags that belong to it ask for."""

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ablation.system.errors import Problem, shorten
from ablation.system.processes import is_launched

LOCAL = "local"  # the address of a Ray that is started for the sweep alone
# Flags that have no use with --ray, and why.
USELESS_WITH_RAY = {
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


def cluster_problems(asked: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of --ray, and of what belongs to it or does not."""
    if "ray" not in asked:
        for name in ("gpus_per_run", "cpus_per_run"):
            if name in asked:
                yield Problem(f"--{name} without --ray", "there are no tasks; leave it out")
        return
    address, device = asked["ray"], given.get("device")
    if address not in (LOCAL, "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        yield Problem(
            f'--ray "{shorten(address)}"',
            "not HOST:PORT, as 10.0.0.1:6379, and not auto, which is the cluster that this machine "
            "is in; --ray alone starts Ray on this machine",
        )
    for name, other in (("gpus_per_run", "cpu"), ("cpus_per_run", "cuda")):
        if name in asked and device == other:
            yield Problem(f"--{name} with --device {other}", "leave one of them out")
    if device == "mps":
        yield Problem("--device mps with --ray", "of GPUs, Ray knows CUDA's; take --device cpu")
    for name, reason in USELESS_WITH_RAY.items():
        if name in asked:
            yield Problem(f"--{name} with --ray", reason)
    if is_launched():
        yield Problem(
            "--ray under torchrun",
            "two engines at once; a sweep goes to Ray without torchrun, and one run to torchrun "
            "without --ray",
        )
    if "dry_run" not in asked and importlib.util.find_spec("ray") is None:
        yield Problem("--ray", "Ray is not installed; pip install -r requirements-ray.txt")
