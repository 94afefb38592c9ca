"""A sweep on a Ray cluster, as a dataflow; the records are written here.

    texts ──> states (a task for each group of runs that share them) ──> runs (a task each)

Texts, states and results are objects of Ray, which ships the code, too: nodes need no folder in
common. A task that is lost with its worker or node is run again by Ray, and so is the task that
made what it needs. Nodes unpickle what they are sent only after they have looked at their
packages, of which one may be missing, or of another version.
"""

import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from tqdm import tqdm

from ablation.config.cluster_request import LOCAL, ClusterRequest
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions, Run
from ablation.data.corpora import load_encoding
from ablation.data.vocabulary import portable
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.outcomes import ExperimentResult
from ablation.finetuning.shared_work import SharedWork
from ablation.sweeps import cluster, records, sweep, tracking
from ablation.sweeps.variants import describe_run
from ablation.system.errors import ClusterError, RecordError, describe_error, logger
from ablation.system.files import write_atomically
from ablation.system.output import print_lines
from ablation.system.signals import DeferredSignals, Interrupted
from ablation.system.version import PACKAGES, PROJECT, read_commit
from data_utils import Corpus

# What Ray ships of it: the modules, and nothing that a user may keep beside them.
KINDS = ("py", "json", "toml")
SHIPPED = ("!.", "!/*.py", "!/ablation", "!/ablation/*", *(f"!/ablation/*/*.{k}" for k in KINDS))
RUNTIME = {"working_dir": str(PROJECT), "excludes": ["*", *SHIPPED]}
QUIET = {"log_to_driver": False, "logging_level": logging.CRITICAL}
# That Ray may take for an answer. After 60 s without its head it ends this process, unexplained.
ANSWER_SECONDS = 40.0
STUCK_SECONDS = 60.0  # without a node that could run what is left
SILENT_SECONDS = 86_400.0  # without a run that ends: the longest run on a CPU takes most of a day
POLL_SECONDS = 0.5
STOPPED = "What is complete is recorded; the same command goes on from there."
INSTALL = "Install requirements.txt and requirements-ray.txt alike on all nodes."
RETRIES = 3  # of a task whose process or node was lost
# Read by Ray when it starts: it reports to nobody, and starts no task for ever anew that takes
# more memory than its node has.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}


# ---------------------------------------------------------------- on the nodes


@dataclass(frozen=True)
class Outcome:
    """How a run ended: with a result, or with an error in words."""

    node: str = ""  # none if Ray gave it up
    seconds: float = 0.0  # that it took, whatever it did
    result: ExperimentResult | None = None
    error: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)  # of the model, by name


def compute_states(
    configs: Sequence[ExperimentConfig],
    config: ExperimentConfig,
    texts: bytes,
    before: bytes | None = None,
) -> bytes | None:
    """The states that a run shares with those of ``configs``, from those of fewer blocks if these
    are there. None if that fails: the runs then compute their own, and each says what is wrong."""
    try:
        shared = SharedWork(configs, *pickle.loads(texts), before and pickle.loads(before))
        return pickle.dumps(shared.compute_prefix(config))
    except Exception:  # whatever it is, each run meets it again
        return None


def compute_run(
    configs: Sequence[ExperimentConfig],
    config: ExperimentConfig,
    keeps_model: bool,
    texts: bytes,
    states: bytes | None = None,
) -> Outcome:
    """One run, on the states that it shares with those of ``configs``."""
    started = time.monotonic()
    ended: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            shared = SharedWork(configs, *pickle.loads(texts), states and pickle.loads(states))
            output = OutputOptions(folder=Path(folder), save_model=keeps_model)
            ended["result"] = run_experiment(config, shared, output)
            ended["files"] = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        except Exception as error:  # whatever it is, the record says so
            ended["error"] = describe_error(error)
    return Outcome(socket.gethostname(), time.monotonic() - started, **ended)


def _make_task() -> ray.remote_function.RemoteFunction:
    """A task of Ray that does the work it is given, pickled, if the node has the same packages.

    Ray ships a function that is defined in another with all it needs, so nothing of the project is
    imported before. A node with other packages raises ``ImportError``.
    """
    versions = {name: version(name).partition("+")[0] for name in PACKAGES}  # whatever the build

    def compute(work: bytes, *inputs: bytes | None) -> Any:
        import gc
        import pickle
        import socket
        from concurrent.futures import ThreadPoolExecutor
        from importlib.metadata import version

        node = f"the node {socket.gethostname()}"
        try:
            found = {name: version(name).partition("+")[0] for name in versions}
            if found == versions:
                with ThreadPoolExecutor(1) as pool:  # the main thread's signals are Ray's
                    return pool.submit(lambda: pickle.loads(work)(*inputs)).result()
        except ImportError as error:
            raise ImportError(f"{node} lacks a package ({error})") from None
        finally:
            gc.collect()  # nothing of one run may take memory from the next
        name = next(name for name in versions if found[name] != versions[name])
        problem = f"{node} has {name} {found[name]}, and this machine {name} {versions[name]}"
        raise ImportError(f"{problem}: results would differ")

    return ray.remote(max_retries=RETRIES)(compute)


# ---------------------------------------------------------------- on this machine


def run_ray_sweep(
    runs: Sequence[Run], output_dir: Path, output: OutputOptions, request: ClusterRequest
) -> list[Run]:
    """Have Ray run whatever of ``runs``, in the order of :func:`sweep.order_runs`, has no complete
    record. Returns the runs that failed, or that Ray gave up; they are recorded.

    Raises:
        ClusterError: no Ray answers, no node can run what is left, or versions differ.
        DataError, RecordError, Interrupted: as for :func:`sweep.run_sweep`.
    """
    read_commit()  # before others change the files
    to_do = [run for run in runs if not sweep.find_done(run, output_dir, output)]
    if not to_do:
        logger.info("All %d runs are done already", len(runs))
        return []
    config = runs[0].config  # texts, vocabulary and device are the same for all
    encoding = portable(load_encoding(config))
    shared = SharedWork([config], encoding=encoding)
    sweep.require_one_table(output_dir, shared.corpus, runs)
    number, failed = len(runs) - len(to_do), []
    with connected(request.address) as signals:
        texts = ray.put(pickle.dumps((shared.corpus, encoding)))
        groups = cluster.make_groups(runs, to_do)
        pending = _submit(groups, shared, texts, output.save_model, request)
        logger.info("%d of %d runs are done already, %d to do", number, len(runs), len(to_do))
        with tqdm(total=len(runs), initial=number, desc="runs", unit="run", disable=None) as bar:
            for run, outcome in _outcomes(pending, signals):
                bar.update()
                number += 1
                place = f"Run {number} of {len(runs)}: {describe_run(run)}"
                if error := _record(run, outcome, output_dir, output.track, shared.corpus, place):
                    logger.error("%s", error)
                    failed.append(run)
    return failed


def _submit(
    groups: Sequence[cluster.Group],
    shared: SharedWork,
    texts: ray.ObjectRef,
    keeps_models: bool,
    request: ClusterRequest,
) -> dict[ray.ObjectRef, tuple[Run, Mapping[str, float]]]:
    """Hand all that is to be computed to Ray. Returns the runs, and what of a node each takes, by
    the references of their outcomes."""
    nodes = _find_nodes()
    basic = cluster.task_demand(request, groups[0].runs[0].config.device, nodes)
    device = "cuda" if "GPU" in basic else "cpu"
    compute, pending = _make_task(), {}
    for group in groups:
        first, need = group.runs[0], group.memory(shared)
        # Ray does not track a GPU's memory.
        demand = basic if device == "cuda" else {**basic, "memory": need.total}
        if lack := cluster.describe_lack(first, demand, nodes):
            raise ClusterError(lack)
        shares_states = need.states > 0 and len(group.runs) > 1
        if shares_states and "memory" in demand:
            # States arrive in a second copy. Where no node has room, each run makes its own.
            more = {**demand, "memory": need.total + need.states}
            shares_states = not cluster.describe_lack(first, more, nodes)
            demand = more if shares_states else demand
        amounts = {
            "num_cpus": demand.get("CPU", 0),
            "num_gpus": demand.get("GPU", 0),
            "memory": demand.get("memory", 0),
        }
        configs = [cluster.for_nodes(config, device) for config in group.configs]
        depth, states = None, ()  # of the states that were made last
        for run in group.runs:  # those that freeze fewer blocks come first
            config = cluster.for_nodes(run.config, device)
            if shares_states and depth != cluster.depth(config):
                depth = cluster.depth(config)
                work = pickle.dumps(partial(compute_states, configs, config))
                states = (compute.options(name="states", **amounts).remote(work, texts, *states),)
            work = pickle.dumps(partial(compute_run, configs, config, keeps_models))
            pending[compute.options(name="run", **amounts).remote(work, texts, *states)] = (
                run,
                demand,
            )
    return pending


def _outcomes(
    pending: dict[ray.ObjectRef, tuple[Run, Mapping[str, float]]], signals: DeferredSignals
) -> Iterator[tuple[Run, Outcome]]:
    """Each run with its outcome, as soon as it has ended."""
    last_possible = last_end = time.monotonic()
    while pending:
        signals.raise_if_stopped()
        for ref in ray.wait(list(pending), timeout=POLL_SECONDS)[0]:
            yield pending.pop(ref)[0], _fetch(ref)
            last_end = time.monotonic()
        nodes, now = _find_nodes(), time.monotonic()
        lacks = [cluster.describe_lack(*task, nodes) for task in pending.values()]
        if not all(lacks):
            last_possible = now
        elif lacks and now - last_possible > STUCK_SECONDS:
            raise ClusterError(lacks[0])
        if now - last_end > SILENT_SECONDS:
            raise ClusterError(
                f"No run has ended for {SILENT_SECONDS / 3600:.3g} hours, and {len(pending)} are "
                "left: other work may fill the cluster, or its processes hang; `ray status` shows "
                "which. A run that takes longer belongs on one machine, without --ray, where it "
                f"has checkpoints. {STOPPED}"
            )


def _fetch(ref: ray.ObjectRef) -> Outcome:
    try:
        return ray.get(ref, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ImportError):  # which no other task would find different
            raise ClusterError(f"--ray: {error.cause}. {INSTALL}") from None
        return Outcome(error=f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return Outcome(error=f"Ray gave the run up: {_reason(error)}")


def _record(
    run: Run, outcome: Outcome, output_dir: Path, track: str | None, corpus: Corpus, place: str
) -> str | None:
    """Write down and report how a run ended. Returns what went wrong, if something did."""
    if outcome.error:
        error = outcome.error + f" (on the node {outcome.node})" * bool(outcome.node)
        records.write_incomplete(output_dir, run, "failed", error)
        return f"{place}, failed: {error}"
    folder = run.folder(output_dir)
    try:
        for name, content in outcome.files.items():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, content)
    except OSError as error:
        raise RecordError(f"{error.filename} cannot be written ({error}).") from error
    folder = sweep.record_complete(output_dir, run, outcome.result, corpus)
    sweep.log_comparison(run, outcome.result.accuracy.test)
    with tracking.tracked(track, folder, run.config) as tracker:
        tracker.note(outcome.result)
    logger.info("%s, done on %s in %.2f minutes", place, outcome.node, outcome.seconds / 60)
    print_lines("\n".join([f"{describe_run(run)}:", *records.read_record(folder).lines]))
    return sweep.describe_not_kept(outcome.result, folder) if outcome.result.not_kept else None


def _find_nodes() -> list[cluster.Node]:
    """The nodes that are alive."""
    found: list[dict[str, Any]] = []

    def ask() -> None:
        with suppress(Exception):
            found.extend(ray.nodes())

    asking = threading.Thread(target=ask, daemon=True)  # it may never return
    asking.start()
    asking.join(ANSWER_SECONDS)
    if not found:
        raise ClusterError(f"Ray does not answer any more (its head is gone). {STOPPED}")
    alive = (node for node in found if node["Alive"])
    return [cluster.Node(node["NodeManagerHostname"], node["Resources"]) for node in alive]


def _reason(error: Exception) -> str:
    """What Ray says went wrong: the last line, which is no part of a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


# ---------------------------------------------------------------- connecting


@contextmanager
def connected(address: str) -> Iterator[DeferredSignals]:
    """Inside, this process is connected to the Ray at an address, or to one of its own.

    Gives what notes signals: an exception in the middle of Ray's code would break it, so they wait.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    options = {"include_dashboard": False}
    if address != LOCAL:
        address, options = cluster.find_cluster(address), {}
    try:
        with DeferredSignals() as starting:
            try:
                ray.init(address, runtime_env=RUNTIME, **QUIET, **options)
            except Exception as error:  # Ray's have no class in common
                problem = f"--ray: Ray did not start or answer ({_reason(error)})."
                raise ClusterError(problem) from error
            starting.raise_if_stopped()
        # Here our handlers of signals are back, in whose place Ray had put its own.
        with DeferredSignals() as signals:
            yield signals
    except SystemExit:  # which Ray, while it starts, makes of SIGTERM
        raise Interrupted(signal.SIGTERM) from None
    finally:
        ray.shutdown()
