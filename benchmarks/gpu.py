"""What a GPU makes of the nineteen rows, in one command of under ten minutes.

    python benchmarks/gpu.py --output DIR

Weights are random, so only the messages and the vocabulary are downloaded. Each of three parts has
its share of the time, and the tables say what did not fit:

- Losses: rows 1, 5, 11 and 16, their first 100 steps on the GPU, by both paths and in each
  precision, beside the CPU's.
- Cost: each row as published, its seconds by phase and its peak of memory, beside the published
  minutes of an A100. Small models come first, and no row takes more than half of what is left.
- The same rows in transformers and PEFT (benchmarks/requirements.txt), in fp32: a step and an
  evaluation batch, times how many of them the row has.

Without a GPU, or with --tiny, tiny models run on the demo's messages: that shows that it works.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.sizes import MODEL_SIZES
from ablation.data.corpora import load_corpus, load_encoding
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.shared_work import SharedWork
from ablation.system import machine
from ablation.system.errors import describe_error

COMPARED = (1, 16, 5, 11)  # rows; 16 shares the states of 1
PRECISIONS = {"cuda": ("fp32", "tf32", "bf16"), "cpu": ("fp32", "bf16")}
SHARES = {"reference": 0.2, "losses": 0.4, "rows": 0.92, "transformers": 1.0}  # when each ends
LOSSES = re.compile(r"\(Step (\d+)\): Train loss (\S+), Val loss (\S+)")
NO_TIME, STOPPED = "not run: no time left", "stopped: no time left"
Value = TypeVar("Value")


class TimeUp(Exception):
    """What a part may take is spent."""


class Printed(StringIO):
    """Standard output of a run: losses by step, and when the first ones came."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[int, tuple[float, float]] = {}
        self.first: float | None = None

    def write(self, text: str) -> int:
        """Take in what is printed."""
        if found := LOSSES.search(text):
            self.first = self.first or time.perf_counter()
            self.losses[int(found[1])] = (float(found[2]), float(found[3]))
        return len(text)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise ``TimeUp`` inside after so many seconds, where the system has such an alarm."""

    def stop(*_: object) -> None:
        raise TimeUp

    if seconds <= 0:
        raise TimeUp
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(run: Callable[[], Value], seconds: float) -> tuple[str, Value | None]:
    """What became of ``run`` within so many seconds, in words, and what it gave."""
    try:
        with limited(seconds):
            return "whole", run()
    except TimeUp:
        return STOPPED if seconds > 0 else NO_TIME, None
    except (MemoryError, torch.OutOfMemoryError):
        return "not enough memory", None
    except Exception as error:  # whatever it is, the other parts of the table are worth having
        return f"failed: {describe_error(error)}", None
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def measure(config: ExperimentConfig, shared: SharedWork, seconds: float) -> dict[str, Any]:
    """Run one experiment for so many seconds at most: what became of it, losses by step, seconds
    by phase and to the first losses, and the peak of memory."""
    printed, started = Printed(), time.perf_counter()
    with redirect_stdout(printed):
        status, result = attempt(lambda: run_experiment(config, shared), seconds)
    if status == STOPPED:
        last = f"after step {max(printed.losses)}" if printed.losses else "before the first losses"
        status = f"stopped {last}: no time left"
    device = machine.choose_device(config.device)
    return {
        "status": status,
        "losses": printed.losses,
        "seconds": result.seconds if result else {},
        "first_losses": printed.first and printed.first - started,
        "peak_memory_bytes": None if status == NO_TIME else machine.peak_memory_bytes(device),
    }


class Benchmark:
    """One go of all parts; ``results`` has what there is so far.

    Args:
        tiny: for tiny models on the demo's messages, and few steps.
    """

    def __init__(self, tiny: bool, data_dir: str, minutes: float, precision: str) -> None:
        self._started, self._seconds = time.monotonic(), 60 * minutes
        self._device, self._tiny = machine.choose_device("auto"), tiny
        self._common = {"weights": "random", "data_dir": data_dir, "feature_store": "off"}
        if tiny:
            self._common |= {"model_size": "gpt2-tiny (3M)", "demo": True}
            self._common |= {"max_steps": 20, "eval_freq": 10, "eval_iter": 1}
        self._texts = load_corpus(self._config(1)), load_encoding(self._config(1))
        self.results: dict[str, Any] = {
            "machine": machine.describe_machine(self._device),
            **{"tiny": tiny, "precision": precision},
            **{"losses": [], "rows": {}, "transformers": {}},
        }

    def _config(self, number: int, **options: Any) -> ExperimentConfig:
        """A row with random weights, and with other options."""
        options = {**self._common, "device": self._device.type, **options}
        return replace(ROWS[number].config, **options)

    def _left(self, part: str) -> float:
        """Half of the seconds until a part is to end: what the next run may take."""
        return (self._started + SHARES[part] * self._seconds - time.monotonic()) / 2

    def compare_losses(self) -> None:
        """Losses of the first steps on the CPU, and by each path and precision on the device."""
        length = {"max_steps": 21 if self._tiny else 101, "eval_freq": 10, "eval_iter": 1}
        reference: dict[int, dict] = {}
        device = self._device.type
        cases = [("reference", "cpu", "fast", "fp32")]
        cases += [("losses", device, p, n) for n in PRECISIONS[device] for p in ("fast", "plain")]
        for part, device, path, precision in cases:
            options = {"device": device, "precision": precision, **length}
            options["no_feature_reuse"] = path == "plain"
            configs = [self._config(number, **options) for number in COMPARED]
            shared = SharedWork(configs, *self._texts)
            for number, config in zip(COMPARED, configs, strict=True):
                found = measure(config, shared, self._left(part))
                reference.setdefault(number, found["losses"])
                case = {"row": number, "part": part, "path": path, "precision": precision}
                case |= compare(found["losses"], reference[number]) | found
                self.results["losses"].append(case)

    def measure_rows(self) -> None:
        """Every row, small models first."""
        sizes = list(MODEL_SIZES)
        for number in sorted(
            ROWS, key=lambda n: (sizes.index(ROWS[n].config.model_size), ROWS[n].published.minutes)
        ):
            config = self._config(number, precision=self.results["precision"])
            row = measure(config, SharedWork([config], *self._texts), self._left("rows"))
            self.results["rows"][number] = {
                "published_minutes": ROWS[number].published.minutes,
                **row,
            }

    def measure_transformers(self) -> None:
        """Seconds of every row in transformers and PEFT, from a step and an evaluation batch."""
        try:
            from benchmarks.compare import count_work, make_batch, timers, transformers_loss
        except ModuleNotFoundError as error:
            self.results["skipped"] = f"{error.name} is not installed"
            return
        machine.set_precision("fp32")
        measured: dict[Any, tuple] = {}
        for number in self.results["rows"]:  # in the same order
            config = self._config(number)
            batch = make_batch(config).to(self._device)

            def time_both(config: ExperimentConfig = config, batch: Any = batch) -> list[float]:
                model, loss = transformers_loss(config, batch)
                return [time_mean(run) for run in timers(model.to(self._device), loss).values()]

            shape = (config.gpt, config.trainable_layers, config.lora_rank, batch.inputs.shape)
            if shape not in measured:
                measured[shape] = attempt(time_both, self._left("transformers"))
            status, seconds = measured[shape]
            found: dict[str, Any] = {"status": status}
            if seconds:
                found |= {"step": seconds[0], "evaluation_batch": seconds[1]}
                found["whole"] = sum(
                    n * s for n, s in zip(count_work(config), seconds, strict=True)
                )
            self.results["transformers"][number] = found


def compare(found: dict[int, tuple], reference: dict[int, tuple]) -> dict[str, Any]:
    """The largest difference of printed losses, and the last step that both have."""
    steps = found.keys() & reference.keys()
    pairs = [pair for step in steps for pair in zip(found[step], reference[step], strict=True)]
    difference = max((round(abs(a - b), 3) for a, b in pairs), default=None)
    return {"difference": difference, "last_step": max(steps, default=None)}


def time_mean(run: Callable[[], object], repeats: int = 3) -> float:
    """Seconds that ``run`` takes, after a first time that does not count."""

    def finish() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run()
    finish()
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    finish()
    return (time.perf_counter() - started) / repeats


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *body])


def format_losses(results: dict[str, Any]) -> str:
    """The largest differences of losses: a line for each row and path."""
    precisions = PRECISIONS[results["machine"]["device"]["type"]]
    lines: dict[tuple[str, str], list[str]] = {}
    for case in results["losses"]:
        if case["part"] == "losses":
            cell = case["status"]
            if case["difference"] is not None:
                cell = f"{case['difference']:.3f}"
            elif case["losses"]:
                cell = "no losses of the CPU to compare with"
            reached = f"(to step {case['last_step']})" * (case["difference"] is not None)
            line = lines.setdefault((str(case["row"]), case["path"]), [])
            line.append(f"{cell} {reached}".strip())
    return format_table([("row", "path", *precisions), *((*k, *v) for k, v in lines.items())])


def format_rows(results: dict[str, Any]) -> str:
    """What each row cost."""
    phases = ("features", "training", "evaluation")
    head = ["row", *(f"{phase}, s" for phase in phases), "to first losses, s", "peak, GB"]
    table = [[*head, "minutes", "A100, published", "transformers, fp32, estimated", ""]]
    for number, row in sorted(results["rows"].items()):
        seconds, other = row["seconds"], results["transformers"].get(number, {"status": ""})
        figures = [
            *(*map(seconds.get, phases), row["first_losses"]),
            row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e9,
            (seconds["features"] + seconds["training"]) / 60 if seconds else None,
            row["published_minutes"],
        ]
        cells = ["" if figure is None else f"{figure:.2f}" for figure in figures]
        cells.append(f"{other['whole'] / 60:.2f}" if "whole" in other else other["status"])
        table.append([str(number), *cells, row["status"]])
    return format_table(table)


def format_results(results: dict[str, Any]) -> str:
    """All results as Markdown."""
    described = results["machine"]
    parts = [f"# {described['device']['name']}, PyTorch {described['versions']['torch']}"]
    if results["tiny"]:
        parts.append("Tiny models on the demo's messages: the figures mean nothing.")
    parts += ["## Largest difference of a printed loss from the CPU's (fast path, fp32)"]
    parts += [format_losses(results), f"## Cost of each row in {results['precision']}"]
    parts += ["Minutes are those of features and training.", format_rows(results)]
    if "skipped" in results:
        parts.append(f"Not compared with transformers and PEFT: {results['skipped']}.")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all parts; print Markdown, and write it and JSON to a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder (default: gpu)")
    parser.add_argument("--data_dir", default="data", help="folder of the messages (default: data)")
    parser.add_argument("--minutes", type=float, default=9.5, help="time limit (default: 9.5)")
    parser.add_argument(
        "--precision", choices=PRECISIONS["cuda"], default="fp32", help="of the rows' cost"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny models, the demo's messages")
    options = parser.parse_args(argv)
    tiny = options.tiny or not torch.cuda.is_available()
    benchmark = Benchmark(tiny, options.data_dir, options.minutes, options.precision)
    options.output.mkdir(parents=True, exist_ok=True)
    parts = (benchmark.compare_losses, benchmark.measure_rows, benchmark.measure_transformers)
    for part in parts:
        part()
        # What there is stays, whatever ends the next part.
        (options.output / "gpu.json").write_text(json.dumps(benchmark.results, indent=1))
        (options.output / "gpu.md").write_text(format_results(benchmark.results) + "\n")
    print(format_results(benchmark.results))


if __name__ == "__main__":
    main()
