"""What torchrun and Ray add to a run, and what several processes gain.

    python benchmarks/engines.py launch      # one process, with and without torchrun
    python benchmarks/engines.py share       # one process and two, with as many cores and with half
    python benchmarks/engines.py ray         # a sweep, with and without Ray

Commands run one after the other, in turns, each a whole process on the synthetic messages of
``--demo``. Medians are printed as a table of ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.sweeps.records import read_records

SCRIPT = str(Path(__file__).resolve().parent.parent / "additional_experiments.py")
PYTHON = [sys.executable, SCRIPT]
SMALL = ["--demo", "--model_size", "gpt2-small (124M)", "--context_length", "32"]
LAUNCHED_ROW = ["--demo", "--model_size", "gpt2-small (124M)", "--rows", "16"]
SHARED_ROWS = {4: "two blocks", 5: "all layers", 11: "LoRA"}
FEW_STEPS = ["--max_steps", "26", "--eval_freq", "1000"]
N_RUNS = (2, 12)  # of a sweep on Ray: what a further one takes is the difference through ten
PHASES = ("features", "training", "evaluation")


@dataclass(frozen=True)
class Timing:
    """Seconds of a command, and of the phases of its run, from its record; of many, their sums."""

    whole: float
    phases: Mapping[str, float]


def torchrun(n_processes: int) -> list[str]:
    """The start of a command for several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc_per_node", str(n_processes), SCRIPT]


def measure(command: Sequence[str], n_threads: int) -> Timing:
    """Run a command whose records go to a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [*command, "--output_dir", folder, "--feature_store", "off"],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
        )
        whole = time.perf_counter() - started
        found = [record.result["seconds"] for record in read_records(Path(folder))]
    return Timing(whole, {phase: sum(seconds[phase] for seconds in found) for phase in PHASES})


def measure_in_turns(
    commands: Mapping[str, tuple[Sequence[str], int]], repeats: int
) -> dict[str, list[Timing]]:
    """The timings of commands, each with its number of threads, after one of each that does not
    count."""
    timings: dict[str, list[Timing]] = {name: [] for name in commands}
    for _ in range(1 + repeats):
        for name, (command, n_threads) in commands.items():
            timings[name].append(measure(command, n_threads))
            print(name, timings[name][-1], file=sys.stderr)
    return {name: found[1:] for name, found in timings.items()}


def medians(timings: Sequence[Timing]) -> list[float]:
    """Of the whole command, and of each phase."""
    wholes = statistics.median(timing.whole for timing in timings)
    return [wholes, *(statistics.median(t.phases[phase] for t in timings) for phase in PHASES)]


def launch_table(repeats: int) -> str:
    """One process, with and without torchrun, with all cores."""
    cores = os.cpu_count() or 1
    commands = {
        "python": ([*PYTHON, *LAUNCHED_ROW], cores),
        "torchrun, one process": ([*torchrun(1), *LAUNCHED_ROW], cores),
    }
    timings = measure_in_turns(commands, repeats)
    lines = [[name, *(f"{s:.2f}" for s in medians(found))] for name, found in timings.items()]
    one, launched = (list(found) for found in timings.values())
    ratios = [b.whole / a.whole for a, b in zip(one, launched, strict=True)]
    computing = [
        sum(b.phases.values()) / sum(a.phases.values()) for a, b in zip(one, launched, strict=True)
    ]
    return (
        table(["command", "whole, s", *(f"{phase}, s" for phase in PHASES)], lines)
        + f"\n\nPairs, torchrun over python: whole {spread(ratios)}, phases {spread(computing)}"
    )


def share_table(repeats: int) -> str:
    """By row, one process with all cores and with one, and two with a core each."""
    cores = os.cpu_count() or 1
    lines = []
    for row, trains in SHARED_ROWS.items():
        flags = [*SMALL, "--rows", str(row), *FEW_STEPS]
        commands = {
            f"one, {cores} cores": ([*PYTHON, *flags], cores),
            "one, a core": ([*PYTHON, *flags], 1),
            "two, a core each": ([*torchrun(2), *flags], 1),
        }
        for name, found in measure_in_turns(commands, repeats).items():
            _, *phases = medians(found)
            lines.append([f"{row}, {trains}", name, *(f"{s:.1f}" for s in phases)])
    return table(["row", "processes", *(f"{phase}, s" for phase in PHASES)], lines)


def ray_table(repeats: int) -> str:
    """Sweeps of runs that share nothing, with and without Ray, and what a run more takes."""
    cores = os.cpu_count() or 1
    flags = ["--demo", "--rows", "5", "--max_steps", "20", "--num_seeds"]
    commands = {}
    for n in N_RUNS:
        commands[f"{n} runs"] = ([*PYTHON, *flags, str(n)], cores)
        commands[f"{n} runs on Ray"] = ([*PYTHON, *flags, str(n), "--ray"], cores)
    timings = measure_in_turns(commands, repeats)
    whole = {name: medians(found)[0] for name, found in timings.items()}
    few, many = (f"{n} runs" for n in N_RUNS)
    further = {
        way: (whole[many + way] - whole[few + way]) / (N_RUNS[1] - N_RUNS[0])
        for way in ("", " on Ray")
    }
    lines = [[name, f"{seconds:.1f}"] for name, seconds in whole.items()]
    return (
        table(["command", "whole, s"], lines)
        + f"\n\nA further run takes {further['']:.2f} s, and {further[' on Ray']:.2f} s on Ray"
    )


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True)


TABLES = {"launch": launch_table, "share": share_table, "ray": ray_table}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=TABLES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(TABLES[options.part](options.repeats))
