"""What the store of hidden states saves: whole commands, one after the other, as from a shell.

    python benchmarks/stored.py --data_dir DIR

prints a Markdown table: seconds of each command, and how many states it found and computed. ``DIR``
holds the SMS Spam Collection. Records and stores go to a folder that is deleted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ablation.classifier.tensor_files import read_tensors, write_tensors  # noqa: E402
from ablation.system.machine import describe_machine  # noqa: E402

CHAIN = (1, 2, 3, 14, 15, 16, 18)  # whose states row 1 makes
KILLED_AT = 0.8  # of the states


def command(folder: Path, data_dir: str, *flags: str) -> list[str]:
    """The script with some flags, its records in a folder."""
    script = [sys.executable, str(ROOT / "additional_experiments.py"), *flags]
    return [*script, "--data_dir", data_dir, "--output_dir", str(folder / "runs")]


def run(folder: Path, data_dir: str, *flags: str) -> list[str]:
    """Run one command: its seconds, and the states that it found and computed."""
    started = time.perf_counter()
    subprocess.run(command(folder, data_dir, *flags), check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    newest = max((folder / "runs").glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    states = json.loads(newest.read_text())["states"]
    return [f"{seconds:.1f}", f"{states['found']:,}", f"{states['computed']:,}"]


def kill_midway(n_bytes: float, store: Path, *arguments: Any) -> None:
    """Start a command, and kill it when its store has so many bytes."""
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while size_of(store) < n_bytes:
            if process.poll() is not None:
                raise RuntimeError(f"it ended by itself, with {size_of(store):,} bytes stored")
            time.sleep(0.1)
        process.kill()


def size_of(store: Path) -> int:
    """Bytes of the pieces of a store."""
    return sum(path.stat().st_size for path in store.glob("*/[!.]*.states"))


def seconds_of_writing(store: Path) -> float:
    """Seconds that writing all pieces of a store takes once more."""
    seconds = 0.0
    for path in store.glob("*/*.states"):
        header, tensors = read_tensors(path)
        started = time.perf_counter()
        write_tensors(path.with_suffix(".again"), tensors, header)
        seconds += time.perf_counter() - started
    return seconds


def measure(folder: Path, data_dir: str) -> Iterator[list[str]]:
    """The lines of the table."""
    small = ("--weights", "random", "--feature_store", str(folder / "store"))
    started = time.perf_counter()
    for row in CHAIN:
        name = f"row {row}" + ("" if row == CHAIN[0] else ", after those above")
        yield [name, *run(folder, data_dir, "--rows", str(row), *small)]
        if row == CHAIN[0]:
            n_bytes = size_of(folder / "store")
    yield ["these, from first to last", f"{time.perf_counter() - started:.1f}", "", ""]
    yield ["row 1 again", *run(folder, data_dir, *small)]
    yield ["writing row 1's states", f"{seconds_of_writing(folder / 'store'):.1f}", "", ""]
    killed = ("--weights", "random", "--seed", "124", "--feature_store", str(folder / "killed"))
    kill_midway(KILLED_AT * n_bytes, folder / "killed", folder, data_dir, *killed)
    yield [f"row 1 after a kill at {KILLED_AT:.0%}", *run(folder, data_dir, *killed)]
    transformers.GPT2Model(transformers.GPT2Config()).save_pretrained(folder / "gpt2")
    file = ("--weights", str(folder / "gpt2"), "--feature_store", str(folder / "file"))
    yield ["row 1 from a file of weights", *run(folder, data_dir, *file)]
    other = (*file, "--learning_rate", "1e-4", "--seed", "124")
    yield ["the same, another learning rate and seed", *run(folder, data_dir, *other)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time commands that find stored hidden states.")
    parser.add_argument("--data_dir", required=True, help="folder of the SMS Spam Collection")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = list(measure(Path(folder), options.data_dir))
    print(describe_machine(torch.device("cpu"))["device"], "\n")
    headers = ("command", "seconds", "states found", "computed")
    align = ("left", "right", "right", "right")
    print(tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align))
