"""Measure predict.py against the pipeline of transformers, and what a checkpoint costs.

A GPT-2 small with random weights, trained as row 16 for one step, classifies texts of SMS length,
all different, here and in transformers, in turns. The pipeline gets the batch size that is fastest
for it on a sample. Then row 16 is trained with a checkpoint after each epoch.

    python benchmarks/predictions.py --data_dir data
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ablation.classifier.saved_models import load_classifier
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions
from ablation.data.corpora import load_encoding
from ablation.data.sms import find_dataset, read_messages
from ablation.finetuning.checkpoints import Checkpoints
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.prediction_lines import Prediction
from ablation.finetuning.shared_work import SharedWork
from ablation.system.machine import describe_machine
from ablation.system.version import read_commit

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
SAMPLE = 192  # texts, to find the pipeline's best batch size
TURN = 2_000  # texts, before it is the other's turn


def make_texts(data_dir: Path, n: int) -> list[str]:
    """``n`` different texts: the messages, then their words in other orders."""
    messages = list(dict.fromkeys(read_messages(find_dataset(data_dir))["Text"]))
    draw = random.Random(1)
    texts = dict.fromkeys(draw.sample(messages, min(n, len(messages))))
    while len(texts) < n:
        words = draw.choice(messages).split()
        draw.shuffle(words)
        texts[" ".join(words)] = None
    shuffled = list(texts)
    draw.shuffle(shuffled)
    return shuffled


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What some work gives, and the seconds that it takes."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def compare_predictions(texts: Sequence[str], folder: Path, exported: Path) -> dict[str, object]:
    """Texts a second here and in transformers, over turns of ``TURN`` texts."""
    classifier = load_classifier(folder, {})
    encoding = load_encoding(classifier.config)
    theirs = pipeline("text-classification", model=str(exported), device="cpu")

    def run_theirs(part: Sequence[str], batch_size: int) -> list[dict]:
        return theirs(list(part), batch_size=batch_size, truncation=True)

    def run_ours(part: Sequence[str]) -> list[Prediction]:
        return list(classify_texts(classifier, encoding, part))

    run_theirs(texts[:32], 8)
    sample = {size: timed(partial(run_theirs, texts[:SAMPLE], size))[1] for size in BATCH_SIZES}
    best = min(sample, key=sample.get)
    rates: dict[str, list[float]] = {"here": [], "transformers": []}
    largest = 0.0
    for start in range(0, len(texts), TURN):
        part = texts[start : start + TURN]
        ours, our_seconds = timed(partial(run_ours, part))
        found, their_seconds = timed(partial(run_theirs, part, best))
        rates["here"].append(len(part) / our_seconds)
        rates["transformers"].append(len(part) / their_seconds)
        for a, b in zip(ours, found, strict=True):
            probability = b["score"] if b["label"] == a.label else 1 - b["score"]
            largest = max(largest, abs(a.probability - probability))
    return {
        "texts": len(texts),
        "mean_tokens": statistics.mean(map(len, encoding.encode_ordinary_batch(list(texts)))),
        "sample_seconds": sample,
        "best_batch_size": best,
        "texts_per_second": rates,
        "ratio": statistics.median(
            a / b for a, b in zip(rates["here"], rates["transformers"], strict=True)
        ),
        "largest_difference": largest,
    }


def time_checkpoints(config: ExperimentConfig, folder: Path) -> dict[str, object]:
    """Seconds of each checkpoint of a run, and of its training."""
    times: list[float] = []
    real = Checkpoints._write

    def note(self: Checkpoints, state: object) -> None:
        times.append(timed(partial(real, self, state))[1])

    Checkpoints._write = note
    result = run_experiment(
        config, SharedWork([config]), OutputOptions(folder=folder, checkpoint_every="epoch")
    )
    Checkpoints._write = real
    return {
        "seconds": times,
        "share_of_run": sum(times) / (result.seconds["features"] + result.seconds["training"]),
        "bytes": (folder / "checkpoint.safetensors").stat().st_size,
    }


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--texts", type=int, default=10_000)
    arguments = parser.parse_args()
    row_16 = ExperimentConfig(
        weights="random", trainable_token_pos="flexible", data_dir=arguments.data_dir
    )
    one_step = ExperimentConfig(**{**vars(row_16), "max_steps": 1, "context_length": 300})
    with tempfile.TemporaryDirectory() as name:
        folder, exported = Path(name) / "run", Path(name) / "exported"
        run_experiment(one_step, output=OutputOptions(folder, save_model=True, export_dir=exported))
        texts = make_texts(Path(arguments.data_dir), arguments.texts)
        figures = {
            "predictions": compare_predictions(texts, folder, exported),
            "checkpoints": time_checkpoints(row_16, Path(name) / "checkpoints"),
            "machine": {**describe_machine(torch.device("cpu")), "commit": read_commit()},
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
