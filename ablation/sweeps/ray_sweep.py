"""A sweep on a cluster: Ray computes the runs, on whatever node, and the records are written here.

A task of Ray is some runs that share hidden states, or a single run. Code, texts and vocabulary
go to the nodes by Ray, and each result comes back, through an inbox on this machine, as soon as
its run has ended. So there is no folder that nodes would have to share, and a task that Ray
starts again, because a process or a node was lost, leaves out what has come back already.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tqdm import tqdm

from ablation.config.cluster_request import LOCAL, ClusterRequest
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions, Run
from ablation.data.corpora import load_corpus, load_encoding
from ablation.data.data_summary import describe_corpus
from ablation.data.vocabulary import portable
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps.cluster import (
    Node,
    Task,
    demand_memory,
    describe_lack,
    describe_silence,
    find_demand,
    make_tasks,
)
from ablation.sweeps.ray_worker import Inbox, Outcome, VersionError, call_in_thread, compute_task
from ablation.sweeps.records import read_record, write_incomplete
from ablation.sweeps.sweep import (
    describe_not_kept,
    find_done,
    record_complete,
    require_one_table,
)
from ablation.sweeps.variants import describe_run
from ablation.system.errors import ClusterError, RecordError
from ablation.system.files import write_atomically
from ablation.system.machine import PACKAGES
from ablation.system.output import print_lines
from ablation.system.signals import DeferredSignals, Interrupted
from ablation.system.version import PROJECT, read_commit
from data_utils import Corpus

logger = logging.getLogger("experiments")

# What Ray ships of it: the modules, and nothing that a user may keep beside them.
SHIPPED = ("!.", "!/*.py", "!/ablation", "!/ablation/*", "!/ablation/*/*.py")
RUNTIME = {"working_dir": str(PROJECT), "excludes": ["*", *SHIPPED]}
QUIET = {"log_to_driver": False, "logging_level": logging.CRITICAL}
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
# That Ray may take for an answer. After 60 s without its head it ends this process, unexplained.
ANSWER_SECONDS = 40.0
STUCK_SECONDS = 60.0  # without a node that could run what is left
SILENT_SECONDS = 1800.0  # without a sign of life of any run
POLL_SECONDS = 0.5
LOST = (
    "Ray does not answer any more ({}). What is complete is recorded; the same command goes on "
    "from there."
)
RETRIES = 3  # of a task whose process or node was lost
# Read by Ray when it starts: it reports to nobody, and starts no task for ever anew that takes
# more memory than its node has.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}


@dataclass
class Ledger:
    """What is known of the runs of a sweep, and recorded."""

    runs: Sequence[Run]
    corpus: Corpus
    output_dir: Path
    progress: tqdm
    n_ended: int = 0
    at_work: dict[str, str] = field(default_factory=dict)  # names, and where each last began
    ended: set[str] = field(default_factory=set)  # names, of those that ended in this sweep
    failed: list[Run] = field(default_factory=list)

    def note(self, run: Run, node: str) -> None:
        """Say that a run has begun on a node, if that is new."""
        if self.at_work.get(run.name) != node and run.name not in self.ended:
            self.at_work[run.name] = node
            logger.info("Begun on %s: %s", node, describe_run(run))

    def record(self, run: Run, outcome: Outcome) -> None:
        """Write down and report how a run ended.

        Raises:
            RecordError: it cannot be written.
        """
        if outcome.error:
            self.fail(run, f"{outcome.error} (on the node {outcome.node})")
            return
        try:
            folder = run.folder(self.output_dir)
            for name, content in outcome.files.items():
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, content)
        except OSError as error:
            raise RecordError(f"{error.filename} cannot be written ({error}).") from error
        folder = record_complete(self.output_dir, run, outcome.result, self.corpus)
        self._end(run)
        minutes = outcome.seconds / 60
        logger.info("%s, done on %s in %.2f minutes", self._place(run), outcome.node, minutes)
        print_lines("\n".join([f"{describe_run(run)}:", *read_record(folder).lines]))
        if outcome.result.not_kept:
            self.failed.append(run)
            logger.error("%s", describe_not_kept(outcome.result, folder))

    def fail(self, run: Run, error: str) -> None:
        """Write down that a run failed."""
        write_incomplete(self.output_dir, run, "failed", error)
        self._end(run)
        self.failed.append(run)
        logger.error("%s, failed: %s", self._place(run), error)

    def _end(self, run: Run) -> None:
        self.n_ended += 1
        self.ended.add(run.name)
        self.progress.update()

    def _place(self, run: Run) -> str:
        return f"Run {self.n_ended} of {len(self.runs)}: {describe_run(run)}"


def run_ray_sweep(
    runs: Sequence[Run], output_dir: Path, output: OutputOptions, request: ClusterRequest
) -> list[Run]:
    """Have Ray run whatever of ``runs``, in the order of :func:`sweep.order_runs`, has no complete
    record.

    Returns:
        The runs that failed, or that Ray gave up; they are recorded, and the others went on.

    Raises:
        ClusterError: no Ray answers, no node can run what is left, or versions differ.
        DataError: the texts or the vocabulary are missing or damaged.
        RecordError: a record cannot be written, or the folder holds runs on other data or
            from other weights of the same name.
        Interrupted: the process was asked to stop; what is complete is recorded.
    """
    read_commit()  # before others change the files
    to_do = [run for run in runs if not find_done(run, output_dir, output)]
    if not to_do:
        logger.info("All %d runs are done already", len(runs))
        return []
    config = runs[0].config  # texts, vocabulary and device are the same for all
    corpus = load_corpus(config)
    require_one_table(output_dir, corpus, runs)
    logger.info(describe_corpus(corpus, is_own=bool(config.dataset)))
    encoding = portable(load_encoding(config))
    with connected(request.address) as signals:
        nodes = find_nodes()
        demand = find_demand(request, config.device, nodes)
        tasks = make_tasks(runs, to_do, demand, sum(node.count(demand) for node in nodes))
        if "GPU" not in demand:  # of a GPU's memory, Ray knows nothing
            tasks = demand_memory(tasks, SharedWork([config], corpus, encoding))
        for task in tasks:
            if not task.fits_any(nodes):
                raise ClusterError(describe_lack(task, nodes))
        with tqdm(total=len(runs), desc="runs", unit="run", disable=None) as progress:
            ledger = Ledger(runs, corpus, output_dir, progress, n_ended=len(runs) - len(to_do))
            progress.update(ledger.n_ended)
            if ledger.n_ended:
                logger.info("%d of %d runs are done already", ledger.n_ended, len(runs))
            logger.info("%d runs to do, in %d tasks", len(to_do), len(tasks))
            _compute(tasks, (corpus, encoding), ledger, output.save_model, signals)
    return ledger.failed


def _compute(
    tasks: Sequence[Task],
    texts: tuple[Any, Any],
    ledger: Ledger,
    keeps_models: bool,
    signals: DeferredSignals,
) -> None:
    """Hand tasks to Ray, and record what comes back until all have ended."""
    inbox = _start_inbox()
    shared = ray.put(texts)
    pending = {_submit(task, shared, inbox, keeps_models): task for task in tasks}
    by_name = {run.name: run for task in tasks for run in task.runs}
    last_possible = last_sign = time.monotonic()
    while pending:
        signals.raise_if_stopped()
        ended, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
        mail, now = _ask(inbox.take.remote()), time.monotonic()
        for name, outcome in mail.outcomes.items():
            if name not in ledger.ended:  # it may have been given up too early
                ledger.record(by_name[name], pickle.loads(outcome))
        for name, node in mail.at_work.items():
            ledger.note(by_name[name], node)
        for task, error in [(pending.pop(ref), _find_error(ref)) for ref in ended]:
            if rest := error and fail_begun(task, error, ledger):
                pending[_submit(rest, shared, inbox, keeps_models)] = rest
        nodes = find_nodes()
        if not pending or any(task.fits_any(nodes) for task in pending.values()):
            last_possible = now
        elif now - last_possible > STUCK_SECONDS:
            raise ClusterError(describe_lack(next(iter(pending.values())), nodes))
        if ended or mail.at_work:
            last_sign = now
        elif now - last_sign > SILENT_SECONDS:
            raise ClusterError(describe_silence(SILENT_SECONDS, len(pending)))


def fail_begun(task: Task, error: str, ledger: Ledger) -> Task | None:
    """Of a task that failed, record as failed the run that had begun, or, if none had, all. Returns
    a task of the others, which the error says nothing about."""
    left = [run for run in task.runs if run.name not in ledger.ended]
    begun = [run for run in left if run.name in ledger.at_work] or left
    for run in begun:
        ledger.fail(run, error)
    others = [run for run in left if run not in begun]
    return replace(task, runs=others) if others else None


def _start_inbox() -> ray.actor.ActorHandle:
    """An inbox on this machine, where no node that is lost takes it along."""
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    inbox = ray.remote(Inbox).options(num_cpus=0, scheduling_strategy=strategy).remote()
    _ask(inbox.names.remote())
    return inbox


def _submit(
    task: Task,
    texts: ray.ObjectRef,
    inbox: ray.actor.ActorHandle,
    keeps_models: bool,
) -> ray.ObjectRef:
    """Hand a task to Ray."""
    device = "cuda" if "GPU" in task.demand else "cpu"
    configs = {run.name: _for_nodes(run.config, device) for run in task.runs}
    sharing = [_for_nodes(config, device) for config in task.configs]
    compute = ray.remote(compute_task).options(
        num_cpus=task.demand.get("CPU", 0),
        num_gpus=task.demand.get("GPU", 0),
        memory=task.demand.get("memory", 0),
        max_retries=RETRIES,
    )
    return compute.remote(
        {name: version(name) for name in PACKAGES},
        [texts, ray.put((configs, sharing))],
        inbox,
        keeps_models,
    )


def _for_nodes(config: ExperimentConfig, device: str) -> ExperimentConfig:
    """The same experiment on the device that it is given, with paths that do not depend on the
    folder of the process."""
    weights = config.weights
    if weights not in ("pretrained", "random"):
        weights = str(Path(weights).absolute())
    weights_dir = config.weights_dir and str(Path(config.weights_dir).absolute())
    return replace(config, device=device, weights=weights, weights_dir=weights_dir)


def _find_error(ref: ray.ObjectRef) -> str | None:
    """Why a task came to no good end, if so.

    Raises:
        ClusterError: a node has other versions, which no other task would find different.
    """
    try:
        ray.get(ref, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, VersionError):
            raise ClusterError(f"--ray: {error.cause}") from None
        return f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError as error:
        return f"Ray gave the run up: {_reason(error)}"
    return None


def _ask(ref: ray.ObjectRef) -> Any:
    """What is behind a reference that is there, or will be soon.

    Raises:
        ClusterError: it does not come.
    """
    try:
        return ray.get(ref, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise ClusterError(LOST.format(_reason(error))) from error


def _reason(error: Exception) -> str:
    """What Ray says went wrong: the last line, which is no part of a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def find_nodes() -> list[Node]:
    """The nodes that are alive.

    Raises:
        ClusterError: the cluster's head does not answer.
    """
    try:
        nodes = call_in_thread(ray.nodes, ANSWER_SECONDS)
    except concurrent.futures.TimeoutError as error:
        raise ClusterError(LOST.format("its head is gone")) from error
    alive = (node for node in nodes if node["Alive"])
    return [Node(node["NodeManagerHostname"], node["Resources"]) for node in alive]


# ---------------------------------------------------------------- connecting


@contextmanager
def connected(address: str) -> Iterator[DeferredSignals]:
    """Inside, this process is connected to the Ray at an address, or to one of its own.

    Gives what notes signals: Ray bears no exception at any moment, so they wait.

    Raises:
        ClusterError: no Ray answers there, or it is of another version.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    options = {"include_dashboard": False}
    if address != LOCAL:
        address, options = find_cluster(address), {}
    try:
        with DeferredSignals() as starting:
            _start(address, **options)
            starting.raise_if_stopped()
        # Here our handlers of signals are back, in whose place Ray had put its own.
        with DeferredSignals() as signals:
            yield signals
    except SystemExit:  # which Ray, while it starts, makes of SIGTERM
        raise Interrupted(signal.SIGTERM) from None
    finally:
        ray.shutdown()


def _start(address: str, **options: Any) -> None:
    """Connect to Ray, or start one.

    Raises:
        ClusterError: it fails.
    """
    try:
        ray.init(address, runtime_env=RUNTIME, **QUIET, **options)
    except Exception as error:  # Ray's have no class in common
        raise ClusterError(f"--ray: Ray did not start or answer ({_reason(error)}).") from error


def find_cluster(address: str) -> str:
    """The address HOST:PORT of the cluster that an address, or ``auto``, leads to.

    ``ray.init`` has time limits of minutes, and can end its process. So it is tried in another.

    Raises:
        ClusterError: no Ray answers there, or one of another version.
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
