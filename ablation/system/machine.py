"""What a run runs on: memory, versions, device."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode

from ablation.system import parallel
from ablation.system.version import package_versions


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, models are built on the device meta, which has no numbers, and not initialised:
    PyTorch would import its compiler for that, which takes a second."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        is_initial = getattr(function, "__module__", None) == "torch.nn.init"
        return None if is_initial else function(*args, **kwargs or {})


def set_precision(name: str) -> None:
    """Have PyTorch multiply matrices of float32 as ``--precision`` says."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to 64 MB of it, for what is allocated next; handed back to
    the system and asked for again, every 4 kB of it cost a page fault.

    How large a block is kept, and twice as much in all, follows the largest one of at most 32 MB
    that was freed: mallopt(3), M_MMAP_THRESHOLD. Other C libraries do as before.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def free_bytes(device: torch.device) -> int:
    """Bytes of memory on a device that this process can still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // parallel.place().n_local


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak of :func:`peak_memory_bytes`, where that is possible: on CUDA and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory taken since the last reset: the GPU's on CUDA, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not ru_maxrss, which a process inherits from its parent.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device and versions, for the record of a run."""
    is_cuda = device.type == "cuda"
    return {
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if is_cuda else _processor_name(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "processes": parallel.size(),
        },
        "versions": package_versions(),
    }


def _processor_name() -> str:
    with contextlib.suppress(OSError, IndexError):  # Linux has a better name than Python
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].strip("\t :")
    return platform.processor() or platform.machine()
