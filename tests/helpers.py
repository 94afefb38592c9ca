"""What several test files need."""

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import tiktoken
import torch
from tiktoken_ext.openai_public import r50k_pat_str

from ablation.config.command_line import parse_command_line
from ablation.config.options import ExperimentConfig
from ablation.finetuning.outcomes import (
    Accuracy,
    ExperimentResult,
    History,
    LossRecord,
    Predictions,
)
from ablation.system.machine import describe_machine
from data_utils import PADDING_TOKEN, Corpus, Splits

SCRIPT = Path(__file__).parent.parent / "additional_experiments.py"
PATCHED = Path(__file__).with_name("patched_script.py")  # the same with other limits
NO_NETWORK = {
    # Nothing listens on port 9 of this machine, so that every download fails at once.
    **dict.fromkeys(("http_proxy", "https_proxy", "HF_ENDPOINT"), "http://127.0.0.1:9"),
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "",
    "no_proxy": "",
}


def environment_without_network(folder: Path, **environment: str) -> dict[str, str]:
    return {**os.environ, **NO_NETWORK, "HF_HOME": str(folder / "hf"), **environment}


def read_until(process: subprocess.Popen, text: str, number: int = 1, limit: float = 120) -> str:
    """What a process prints up to the line that is the ``number``-th with a text; after ``limit``
    seconds it is killed."""
    printed = ""
    timer = threading.Timer(limit, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            printed += line
            number -= text in line
            if number == 0:
                return printed
    finally:
        timer.cancel()
    raise AssertionError(f"{text} was not printed:\n{process.stderr.read()}")


def small_gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2's rules of where words end, bytes as tokens, and one of two bytes: " a" is 256."""
    return tiktoken.Encoding(
        "small",
        pat_str=r50k_pat_str,
        mergeable_ranks={**{bytes([value]): value for value in range(256)}, b" a": 256},
        special_tokens={"<|endoftext|>": PADDING_TOKEN},
    )


def config_from_flags(flags: Sequence[str]) -> ExperimentConfig:
    """The one experiment that a command line asks for."""
    (run,) = parse_command_line(flags).runs
    return run.config


def make_result(
    labels: Sequence[int],
    classes: Sequence[int],
    train: tuple[int, int] = (1000, 1040),
    validation: tuple[int, int] = (140, 149),
    labels_of_classes: tuple[str, ...] = ("ham", "spam"),
) -> ExperimentResult:
    """The result of a run with these labels and predictions on the test messages."""
    logits = torch.tensor([[0.25, -0.5] if c == 0 else [-1.0, 0.5] for c in classes])
    if len(labels_of_classes) > 2:
        logits = torch.nn.functional.one_hot(torch.tensor(classes), len(labels_of_classes)).float()
    test = Predictions(logits, torch.tensor(labels))
    history = History([LossRecord(1, 0, 0.7, 0.8), LossRecord(1, 50, 0.3, 0.5)])
    return ExperimentResult(
        history=history,
        accuracy=Splits(Accuracy(*train), Accuracy(*validation), test.accuracy),
        test=test,
        test_lines=list(range(1, len(labels) + 1)),
        class_names=labels_of_classes,
        seconds={"features": 60.0, "training": 30.0, "evaluation": 1.0},
        n_states={"found": 3, "computed": 40},
        n_trained=2,
        n_parameters=3,
        peak_memory=4,
        machine=describe_machine(torch.device("cpu")),
        weights={"weights": "pretrained", "file_sha256": "0" * 64},
    )


def sizes_of(corpus: Corpus) -> dict[str, tuple[int, int]]:
    """For :func:`make_result`: the counts of a run with batches of 8 that gets all right."""
    n_train, n_validation = len(corpus.parts.train) // 8 * 8, len(corpus.parts.validation)
    return {"train": (n_train, n_train), "validation": (n_validation, n_validation)}


def count_faults(items: Iterable[pytest.Item]) -> Counter[str]:
    """How many faults of each kind tests bring about: their marker ``faults(kind, number=1)``."""
    counts: Counter[str] = Counter()
    for item in items:
        for marker in item.iter_markers("faults"):
            kind, number = (*marker.args, 1)[:2]
            counts[kind] += number
    return counts
