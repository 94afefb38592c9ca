"""One run on several processes: data parallel, started by torchrun, over ``torch.distributed``.

Every process runs the same program on the same batches in the same order. Each runs its share of a
batch's texts through the model, and gets the logits of the other texts from the other processes; so
all compute the same losses and take the same decisions. Gradients are added up over the processes
before each update, so that all keep the same weights. Only the first process prints and writes.

Without torchrun there is one process, and nothing here does anything.
"""

import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ablation.system.errors import ParallelError, Problem, logger
from ablation.system.processes import is_first, is_launched, place

# In seconds:
TIME_LIMIT = 1800  # of every wait for the other processes
JOINING_LIMIT = 300  # of the wait for all of them at the start
ASKING = 0.02  # between two looks for those who have come
STORE_LIMIT = 20  # of a look into the store that the processes share, when one has failed
# How long the others give the first process to explain what all of them met. Before they are
# joined it may still be starting, and torchrun ends it as soon as one of them ends.
FIRST_TO_SPEAK = 0.5
FIRST_TO_START = 20

Value = TypeVar("Value")
Batch = TypeVar("Batch")  # of texts: it has labels, and gives some of its rows


def size() -> int:
    """How many processes work together: 1 outside of :func:`joined`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


# ---------------------------------------------------------------- coming together


def launch_problems(device: torch.device, n_texts: int) -> Iterator[Problem]:
    """Why a run cannot use the processes that torchrun started, for people.

    Args:
        device: that the run asks for.
        n_texts: of an update. A single text cannot be shared out, but everything else can.
    """
    here = place()
    n_devices = {"cpu": here.n_local, "cuda": torch.cuda.device_count()}.get(device.type, 1)
    if here.n_local > n_devices:
        yield Problem(
            f"torchrun --nproc_per_node {here.n_local}",
            f"each process needs a device of its own, and this machine has {n_devices} "
            f"({device.type}); start {n_devices}, or add --device cpu",
        )
    if 1 < n_texts < here.n_launched:
        yield Problem(
            f"torchrun with {here.n_launched} processes",
            f"an update has only {n_texts} texts to share out (--batch_size times "
            f"--accumulation_steps); start at most {n_texts} processes",
        )


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, the processes that torchrun started work together: over NCCL on CUDA, else gloo.

    What is raised inside gets ``store``, by which :func:`explain` lets one process speak for all.
    Raises ``ParallelError`` if they do not all come, within ``JOINING_LIMIT``.
    """
    if not is_launched():
        yield
        return
    here, backend = place(), "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(here.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    with _in_words(JOINING_LIMIT):
        limit = timedelta(seconds=JOINING_LIMIT)
        shared, _, _ = next(dist.rendezvous("env://", timeout=limit))
        shared.set_timeout(limit)
        store = dist.PrefixStore(_agree_on_name(shared), shared)
    try:
        with _in_words():
            limit = timedelta(seconds=TIME_LIMIT)
            dist.init_process_group(
                backend, store=store, rank=here.rank, world_size=here.n_launched, timeout=limit
            )
        barrier()
        threads, cores = torch.get_num_threads(), os.cpu_count() or 1
        if device.type == "cpu" and threads * here.n_local < cores:
            logger.warning(
                "Only %d of %d cores are used. With OMP_NUM_THREADS=%d before torchrun its "
                "processes use them all.",
                *(threads * here.n_local, cores, cores // here.n_local),
            )
        yield
        # Not after an error: it would wait for processes that may be gone.
        dist.destroy_process_group()
    except BaseException as error:  # whatever ends the run, one process says so
        error.store = store
        raise


def _agree_on_name(store: dist.Store) -> str:
    """A name that all processes have in common, and no earlier start of them had.

    torchrun may keep its store when it starts them again, and each machine counts only its own
    restarts. So the first process makes up a name, and answers everyone who asks with it, until
    all who are alive have confirmed it.
    """
    here, name = place(), uuid.uuid4().hex
    if here.rank:
        store.set(f"asks/{here.rank}", name)
        found = store.get(f"answer/{name}").decode()
        store.set(f"thanks/{found}/{here.rank}", "")
        return found
    missing, deadline = set(range(1, here.n_launched)), time.monotonic() + JOINING_LIMIT
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(missing)} did not come")
        for rank in missing:
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", name)
        missing = {rank for rank in missing if not store.check([f"thanks/{name}/{rank}"])}
        time.sleep(ASKING)
    return name


def explain(message: str, error: BaseException) -> None:
    """Print on standard error why a run of torchrun's processes ends, unless another process has
    said why it does."""
    store = getattr(error, "store", None)
    if store is None:  # before they were joined: once on each machine
        if place().local_rank:
            time.sleep(FIRST_TO_START)
        print(message, file=sys.stderr)
        return
    # torchrun ends the others as soon as one has ended, and this one may have to say why.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not is_first():
        time.sleep(FIRST_TO_SPEAK)
        message = f"In {place().words}: {message}"
    try:
        store.set_timeout(timedelta(seconds=STORE_LIMIT))
        has_spoken = store.add("failures", 1) > 1
    except RuntimeError:  # the process that keeps the store is gone
        has_spoken = False
    if not has_spoken:
        print(message, file=sys.stderr)


@contextmanager
def first_on_node() -> Iterator[None]:
    """On each machine, the first process goes through the ``with`` statement before the others, so
    that they find what it downloads."""
    is_first_here = place().local_rank == 0
    if not is_first_here:
        barrier()
    yield
    if is_first_here:
        barrier()


def require_same(find_facts: Callable[[], Mapping[str, Any]]) -> None:
    """Raise :class:`ParallelError` if a fact, by its name, is not the same in all processes."""
    if size() == 1:
        return
    own = find_facts()
    for name, first in from_first(own).items():
        if own.get(name) != first:
            raise ParallelError(
                f"The processes do not run the same: {name} is {own.get(name)} in {place().words}, "
                f"and {first} in the first. All need the same code, packages, flags, data and "
                "weights."
            )


# ---------------------------------------------------------------- working together


def map_rows(function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """``function`` of a batch, (B, ...), of which each process computes its share of the rows.

    Gradients flow to the rows that this process computed: those of all processes add up to the
    whole.

    Args:
        function: gives each text a row that does not depend on the other texts.
    """
    if size() == 1:
        return function(batch)
    n_texts = len(batch.labels)
    own = torch.arange(n_texts)[place().rank :: size()]
    # A process that has no text of its own runs the first one and drops the result: its backward
    # pass must have the same parts as that of the others.
    found = function(batch.rows(own if len(own) else torch.zeros(1, dtype=torch.long)))
    own = own.to(found.device)
    rows = found.new_zeros(n_texts, *found.shape[1:]).index_copy(0, own, found[: len(own)])
    others = rows.detach().clone()
    _all_reduce(others)
    is_own = torch.zeros(n_texts, dtype=torch.bool, device=found.device).index_fill(0, own, True)
    return torch.where(is_own.view(-1, *[1] * (found.dim() - 1)), rows, others)


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Make the gradient of each parameter the sum of those in all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if size() == 1 or not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    _all_reduce(together)
    parts = together.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_tensor(tensor: Tensor, owner: int) -> Tensor:
    """The tensor of the process ``owner``; those of the others are overwritten with it."""
    if size() > 1:
        with _in_words():
            dist.broadcast(tensor, src=owner)
    return tensor


def from_first(value: Value) -> Value:
    """The value in the first process, whatever it is in the others."""
    if size() == 1:
        return value
    box = [value]
    with _in_words():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def tensors_from_first(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The named tensors of the first process, on the CPU; the others pass none."""
    shapes = from_first(tensors and {name: (t.shape, t.dtype) for name, t in tensors.items()})
    return {
        name: share_tensor(tensors[name] if tensors else torch.empty(shape, dtype=dtype), owner=0)
        for name, (shape, dtype) in shapes.items()
    }


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if size() == 1:
        return number
    found = torch.tensor(number)
    _all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def where_same(numbers: Tensor) -> Tensor:
    """Where (N,) all processes have the same whole numbers (N,)."""
    if size() == 1:
        return torch.ones_like(numbers, dtype=torch.bool)
    low, high = numbers.clone(), numbers.clone()
    _all_reduce(low, dist.ReduceOp.MIN)
    _all_reduce(high, dist.ReduceOp.MAX)
    return low == high


def barrier() -> None:
    """Wait until all processes are here."""
    largest(0)


def _all_reduce(tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
    with _in_words():
        dist.all_reduce(tensor, operation)


@contextmanager
def _in_words(limit: float | None = None) -> Iterator[None]:
    """Raises what goes wrong between processes as a :class:`ParallelError`."""
    try:
        yield
    except RuntimeError as error:
        # Without the line of gloo's source, and without its advice.
        reason = re.sub(r"^\[\S+\]\s*", "", str(error).strip()).split(". ")[0].split("\n")[0]
        raise ParallelError(
            "Another process of this run ended, or did not answer within "
            f"{limit or TIME_LIMIT:g} seconds ({reason}). With --resume the same command "
            "goes on from the last checkpoint."
        ) from error
