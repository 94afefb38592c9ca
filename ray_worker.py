"""What Ray runs on the nodes: the runs of a task, and the inbox for what came of them.

A node may lack a package, or have another version of it. So nothing of the project but this file
is imported before that is looked into.
"""

from __future__ import annotations

import gc
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from experiment import ExperimentResult, SharedWork
    from experiment_config import ExperimentConfig

ANSWER_SECONDS = 600.0  # that an inbox may take to accept a result, of which models are large


class VersionError(RuntimeError):
    """A node has other versions of packages than the machine that asks."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended on a node: with a result, or with an error in words."""

    node: str
    seconds: float  # that it took, whatever it did
    result: ExperimentResult | None = None
    error: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the model, by name


class Inbox:
    """An actor where workers leave outcomes, pickled, by their runs' names."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._new: dict[str, bytes] = {}

    def put(self, name: str, outcome: bytes) -> None:
        """Take an outcome, unless there is one of this run: a node that was given up for lost
        may still have been at work."""
        if name not in self._names:
            self._names.add(name)
            self._new[name] = outcome

    def names(self) -> set[str]:
        """Of all runs that have ended, which need not be repeated."""
        return self._names

    def take(self) -> dict[str, bytes]:
        """What has come in since the last time."""
        new, self._new = self._new, {}
        return new


def compute_task(
    versions: Mapping[str, str],
    parcel: Sequence[ray.ObjectRef],
    inbox: ray.actor.ActorHandle,
    keeps_models: bool,
) -> None:
    """Compute the runs of a task that have not ended yet, and send each outcome to ``inbox``.

    Args:
        versions: of packages, that this node must have.
        parcel: in Ray's store, what reading takes these packages for: the corpus and the
            encoding; the runs of the task by their names, and the configurations of all that
            share with them.

    Raises:
        VersionError: the node has other packages.
    """
    require_versions(versions)
    # Away from the main thread, whose signals stay Ray's.
    call_in_thread(lambda: _compute_runs(*ray.get(list(parcel)), inbox, keeps_models))


def require_versions(versions: Mapping[str, str]) -> None:
    """Raise :class:`VersionError` unless packages have these versions here, builds aside."""
    for name, expected in versions.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found.partition("+")[0] != expected.partition("+")[0]:
            raise VersionError(
                f"the node {socket.gethostname()} has {name} {found}, and this machine {name} "
                f"{expected}: results would differ. Install requirements.txt and "
                "requirements-ray.txt alike on all nodes."
            )


def _compute_runs(
    texts: tuple[Any, Any],
    task: tuple[Mapping[str, ExperimentConfig], Sequence[ExperimentConfig]],
    inbox: ray.actor.ActorHandle,
    keeps_models: bool,
) -> None:
    from experiment import SharedWork

    configs, sharing = task
    shared = SharedWork(sharing, *texts)
    ended = ray.get(inbox.names.remote(), timeout=ANSWER_SECONDS)
    for name, config in configs.items():
        if name not in ended:
            outcome = pickle.dumps(_compute_run(config, shared, keeps_models))
            ray.get(inbox.put.remote(name, outcome), timeout=ANSWER_SECONDS)
            gc.collect()  # nothing of one run may take memory from the next


def _compute_run(config: ExperimentConfig, shared: SharedWork, keeps_model: bool) -> Outcome:
    from experiment import Keep, run_experiment
    from sweep import describe_error

    started = time.monotonic()
    ended: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            keep = Keep(folder=Path(folder), save_model=keeps_model)
            ended["result"] = run_experiment(config, shared, keep)
            ended["files"] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        except Exception as error:
            ended["error"] = describe_error(error)
    return Outcome(socket.gethostname(), time.monotonic() - started, **ended)


def call_in_thread(work: Callable[[], None]) -> None:
    """Call a function in a thread of its own, where no signal arrives, and raise what it raises."""
    ended: Future[None] = Future()

    def call() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    ended.result()
