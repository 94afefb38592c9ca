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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray

if TYPE_CHECKING:
    from ablation.config.options import ExperimentConfig
    from ablation.finetuning.outcomes import ExperimentResult
    from ablation.finetuning.shared_work import SharedWork

ANSWER_SECONDS = 600.0  # that texts may take to come, and results to go, of which models are large
SIGN_SECONDS = 2.0  # from one sign of life to the next
INSTALL = "Install requirements.txt and requirements-ray.txt alike on all nodes."

Value = TypeVar("Value")


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


@dataclass(frozen=True)
class Mail:
    """What an inbox holds, by the names of runs."""

    outcomes: dict[str, bytes] = field(default_factory=dict)  # pickled
    at_work: dict[str, str] = field(default_factory=dict)  # the nodes that gave a sign of life


class Inbox:
    """An actor where workers leave how their runs ended, and until then signs of life."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._new = Mail()

    def put(self, name: str, outcome: bytes) -> None:
        """Take an outcome, unless there is one of this run: a node that was given up for lost
        may still have been at work."""
        if name not in self._names:
            self._names.add(name)
            self._new.outcomes[name] = outcome

    def sign(self, name: str, node: str) -> None:
        """Take note that a run is being computed."""
        self._new.at_work[name] = node

    def names(self) -> set[str]:
        """Of all runs that have ended, which need not be repeated."""
        return self._names

    def take(self) -> Mail:
        """What has come in since the last time."""
        new, self._new = self._new, Mail()
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
        VersionError: the node has other packages, or lacks one.
    """
    require_versions(versions)
    # Away from the main thread: its signals are Ray's, and while it waited for an answer Ray would
    # give its cores to another task.
    try:
        call_in_thread(lambda: _compute_runs(parcel, inbox, keeps_models))
    except ImportError as error:
        raise VersionError(
            f"the node {socket.gethostname()} lacks a package ({error}). {INSTALL}"
        ) from error


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
                f"{expected}: results would differ. {INSTALL}"
            )


def _compute_runs(
    parcel: Sequence[ray.ObjectRef], inbox: ray.actor.ActorHandle, keeps_models: bool
) -> None:
    from ablation.finetuning.shared_work import SharedWork

    texts, (configs, sharing) = ray.get(list(parcel), timeout=ANSWER_SECONDS)
    shared = SharedWork(sharing, *texts)
    ended = ray.get(inbox.names.remote(), timeout=ANSWER_SECONDS)
    for name, config in configs.items():
        if name not in ended:
            with _signs_of_life(inbox, name):
                outcome = _compute_run(config, shared, keeps_models)
            ray.get(inbox.put.remote(name, pickle.dumps(outcome)), timeout=ANSWER_SECONDS)
            gc.collect()  # nothing of one run may take memory from the next


def _compute_run(config: ExperimentConfig, shared: SharedWork, keeps_model: bool) -> Outcome:
    from ablation.config.runs import OutputOptions
    from ablation.finetuning.experiment import run_experiment
    from ablation.system.errors import describe_error

    started = time.monotonic()
    ended: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = OutputOptions(folder=Path(folder), save_model=keeps_model)
            ended["result"] = run_experiment(config, shared, output)
            ended["files"] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        except Exception as error:
            ended["error"] = describe_error(error)
    return Outcome(socket.gethostname(), time.monotonic() - started, **ended)


@contextmanager
def _signs_of_life(inbox: ray.actor.ActorHandle, name: str) -> Iterator[None]:
    """Inside, let the inbox know now and then that the run is being computed."""
    ended, node = threading.Event(), socket.gethostname()

    def give() -> None:
        while not ended.is_set():
            inbox.sign.remote(name, node)
            ended.wait(SIGN_SECONDS)

    thread = threading.Thread(target=give, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def call_in_thread(work: Callable[[], Value], timeout: float | None = None) -> Value:
    """Call a function in a thread of its own, where no signal arrives.

    Returns:
        What it returns; what it raises is raised.

    Raises:
        concurrent.futures.TimeoutError: it takes longer than ``timeout`` seconds; the thread is
            left to itself.
    """
    ended: Future[Value] = Future()

    def call() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return ended.result(timeout)
