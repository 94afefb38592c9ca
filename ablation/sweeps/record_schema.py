"""What a record may hold, as data, and what of it must agree.

``COMPLETE`` and ``INCOMPLETE`` say of every entry that is read whether it must be there, its type
and its range; entries that they don't name are let through. An entry that only newer records have
goes under ``optional``.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, get_type_hints

import numpy as np
import pandas as pd

from ablation.config.options import ExperimentConfig, changed_options, tagged
from ablation.config.rows import ROWS, format_command, row_number
from ablation.config.rules import value_problems
from ablation.system.output import printable
from data_utils import PARTS

STATUSES = ("complete", "failed", "interrupted")
COLUMNS = {"index": int, "label": int, "probability": float, "prediction": int}  # of predictions
N_NAMED = 3  # problems of one record
# For each value and the place where it stands, the problems that it has.
Check = Callable[[Any, str], Iterator[str]]


# ---------------------------------------------------------------- types


def value(what: str, allows: Callable[[Any], bool]) -> Check:
    """A single value, described in words."""

    def check(found: Any, place: str) -> Iterator[str]:
        if not allows(found):
            yield f"{place} is {reprlib.repr(found)}, not {what}"

    return check


def whole(low: int = 0, high: int = 2**53) -> Check:
    """A whole number in a range."""
    return value(
        f"a whole number from {low} to {high}", lambda x: type(x) is int and low <= x <= high
    )


def number(low: float = 0.0, high: float = 1e9) -> Check:
    """A number in a range."""
    return value(
        f"a number from {low:g} to {high:g}", lambda x: type(x) in (int, float) and low <= x <= high
    )


def _pattern(what: str, pattern: str) -> Check:
    return value(what, lambda x: isinstance(x, str) and bool(re.fullmatch(pattern, x)))


def maybe(kind: Check) -> Check:
    """The same, or null."""
    return lambda found, place: iter(()) if found is None else kind(found, place)


def items(kind: Check, least: int = 0, most: float = math.inf) -> Check:
    """A list, with a type for all that is in it."""

    def check(found: Any, place: str) -> Iterator[str]:
        if not isinstance(found, list) or not least <= len(found) <= most:
            yield f"{place} is {reprlib.repr(found)}, not a list of the right length"
            return
        for i, item in enumerate(found):
            yield from kind(item, f"{place}[{i}]")

    return check


def entries(
    required: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
    others: Check | None = None,
) -> Check:
    """An object, with a type for each of its entries; ``others`` are let through by default."""
    kinds = {**required, **(optional or {})}

    def check(found: Any, place: str) -> Iterator[str]:
        if not isinstance(found, dict):
            yield f"{place or 'it'} is {reprlib.repr(found)}, not an object"
            return
        for name, kind in kinds.items():
            path = f"{place}.{name}" if place else name
            if name in found:
                yield from kind(found[name], path)
            elif name in required:
                yield f"{path} is missing"
        for name in found.keys() - kinds.keys() if others else ():
            yield from others(found[name], f"{place}.{name}")

    return check


text = value("a text", lambda x: isinstance(x, str))
sha256 = _pattern("a SHA-256", "[0-9a-f]{64}")
sha256s = _pattern("one SHA-256, or several joined by +", r"[0-9a-f]{64}(\+[0-9a-f]{64})*")
share = number(0, 1)
count = entries({"correct": whole(), "total": whole(1, 10**9)})
loss = number(high=1e39)  # of float32


def _option(kind: Any) -> Check:
    """A flag's value by its type hint; its range is for the rules of the options."""

    def allows(x: Any) -> bool:
        if isinstance(x, bool):
            return kind is bool
        whole_is_fine = isinstance(x, int) and isinstance(0.0, kind)
        return (isinstance(x, kind) or whole_is_fine) and "\0" not in str(x)

    return value(f"of the type {getattr(kind, '__name__', kind)}", allows)


# ---------------------------------------------------------------- the schema

_OPTIONS = {name: _option(kind) for name, kind in get_type_hints(ExperimentConfig).items()}
FLAGS = entries({}, _OPTIONS, others=value("a flag of this version", lambda _: False))

DESCRIPTION = {
    "row": maybe(whole(1, max(ROWS))),
    "seed": whole(high=2**63 - 1),
    "command": text,
    "flags": FLAGS,
    "overrides": maybe(FLAGS),
}
MACHINE = {
    "device": entries(
        {},
        {
            "type": text,
            "name": text,
            **dict.fromkeys(("threads", "cores", "processes"), maybe(whole(high=10**6))),
        },
    ),
    "versions": entries({}, others=text),
}
LATER = {
    "commit": maybe(text),
    "weights": entries(
        {"weights": text},
        {
            **dict.fromkeys(("repository", "revision", "torch"), text),
            "file_sha256": sha256,
            "seed": whole(high=2**63 - 1),
        },
    ),
}
CLASSES = entries(
    {
        "balanced_accuracy": share,
        "classes": items(
            entries({"label": text, "texts": whole(), "precision": share, "recall": share}),
            least=2,
        ),
        "confusion": items(items(whole()), least=2),
    },
    {"macro_f1": share},
)
COMPLETE = entries(
    {
        **DESCRIPTION,
        **MACHINE,
        "data": entries({"name": text, "split_sha256": sha256}, {"file_sha256": maybe(sha256s)}),
        "parameters": entries(dict.fromkeys(("trained", "total"), whole(1, 10**13))),
        "seconds": entries({"features": number(), "training": number()}, {"evaluation": number()}),
        "accuracy": entries(dict.fromkeys(PARTS, count)),
        "history": entries(
            {
                "losses": items(
                    entries(
                        {"epoch": whole(low=1), "step": whole(), "train": loss, "validation": loss}
                    ),
                    least=1,
                ),
                "epoch_accuracies": items(items(count, least=2, most=2)),
            }
        ),
        "predictions_sha256": sha256,
    },
    {
        **LATER,
        "peak_memory_bytes": whole(high=2**50),
        "test": CLASSES,
        "kept": entries({}, {"model": sha256, "export": sha256}),
        "not_kept": entries({}, {"model": text, "export": text}),
    },
)
INCOMPLETE = entries({**DESCRIPTION, "error": text}, {**LATER, **MACHINE})


# ---------------------------------------------------------------- checks


def check_result(result: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless a record's ``result.json`` is what this project writes: every
    entry of its type and in its range, and none in contradiction to another."""
    if result.get("status") not in STATUSES:
        raise ValueError(f"status is {reprlib.repr(result.get('status'))}")
    kind = COMPLETE if result["status"] == "complete" else INCOMPLETE
    problems = list(islice(kind(result, ""), N_NAMED))
    if not problems:
        config = ExperimentConfig(**result["flags"])
        asked = replace(config, **(result["overrides"] or {}))
        problems = [
            *value_problems(config, changed_options(config)),
            *value_problems(asked, given={}),
        ] or [*_contradictions(result, config)]
    if problems:
        raise ValueError("; ".join(problems[:N_NAMED]))


def _contradictions(result: Mapping[str, Any], config: ExperimentConfig) -> Iterator[str]:
    if result["seed"] != config.seed:
        yield f"seed is {result['seed']}, and flags.seed {config.seed}"
    if result["row"] != row_number(config):
        yield f"row is {result['row']}, and its flags are those of row {row_number(config)}"
    if _flags_in(result["command"]) != _flags_in(format_command(config)):
        yield f"command is {reprlib.repr(result['command'])}, and flags say otherwise"
    weights = result.get("weights", {})
    for name in weights.keys() & {"weights", "seed"}:
        if weights[name] != getattr(config, name):
            yield f"weights.{name} is {reprlib.repr(weights[name])}, and flags say otherwise"
    for name, found in (result["overrides"] or {}).items():
        # Beside rows that use LoRA, its flags are given for these.
        unused = () if config.uses_lora else ("lora",)
        means_nothing = name in tagged("circumstance", "seed", *unused)
        if found != getattr(config, name) and not means_nothing:
            yield f"overrides.{name} is {reprlib.repr(found)}, and flags say otherwise"
    if result["status"] == "complete":
        yield from _contradictions_of_figures(result, config)


def _flags_in(command: str) -> list[str]:
    """The flags of a command with their values, however these are quoted."""
    return sorted(re.sub(r"[\"'\\]", "", printable(command)).split(" --")[1:])


def _contradictions_of_figures(
    result: Mapping[str, Any], config: ExperimentConfig
) -> Iterator[str]:
    history = result["history"]
    counts = [result["accuracy"][part] for part in PARTS]
    counts += [found for pair in history["epoch_accuracies"] for found in pair]
    for found in counts:
        if found["correct"] > found["total"]:
            yield f"{found['correct']} of {found['total']} texts are correct"
    if result["parameters"]["trained"] > result["parameters"]["total"]:
        yield "more parameters are trained than there are"
    if any(loss["step"] != i * config.eval_freq for i, loss in enumerate(history["losses"])):
        yield f"history: its steps are not the multiples of {config.eval_freq}"
    epochs = [found["epoch"] for found in history["losses"]]
    if max([*epochs, len(history["epoch_accuracies"])]) > config.num_epochs:
        yield f"history: more than {config.num_epochs} epochs"
    test = result.get("test", {"classes": [], "confusion": []})
    if {len(row) for row in (test["classes"], test["confusion"], *test["confusion"])} != {
        len(test["classes"])
    }:
        yield "test.confusion is not as long and as wide as there are classes"
    if config.dataset and not ("test" in result and result["data"].get("file_sha256")):
        yield "test or data.file_sha256 is missing, which runs on a --dataset have"


def check_predictions(predictions: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the table of predictions is what a record's figures were counted
    from. Columns that are not named here are let through."""
    if missing := COLUMNS.keys() - predictions.columns:
        raise ValueError(f"the predictions lack {', '.join(sorted(missing))}")
    classes = result.get("test", {}).get("classes", range(2))
    labels, predicted = predictions["label"].to_numpy(), predictions["prediction"].to_numpy()
    both, total = np.stack([labels, predicted]), result["accuracy"]["test"]["total"]
    if len(labels) != total or not np.array_equal(predictions["index"], np.arange(total)):
        raise ValueError(f"the predictions do not count from 0 to {total - 1}, as the test does")
    if both.min() < 0 or both.max() >= len(classes):
        raise ValueError(f"a prediction or label is none of the {len(classes)} classes")
    if not predictions["probability"].between(0, 1).all():
        raise ValueError("a probability is not from 0 to 1")
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    if confusion.trace() != result["accuracy"]["test"]["correct"]:
        raise ValueError("the predictions do not add up to accuracy.test")
    if "test" in result:
        _check_classes(result["test"], confusion)


def _check_classes(test: Mapping[str, Any], confusion: np.ndarray) -> None:
    """The same of the figures by class."""
    if test["confusion"] != confusion.tolist():
        raise ValueError("the predictions do not add up to test.confusion")
    texts, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    recall = right / np.maximum(texts, 1)
    expected = {
        "texts": texts,
        "recall": recall,
        "precision": right / np.maximum(predicted, 1),
    }
    for name, figures in expected.items():
        if not np.allclose([part[name] for part in test["classes"]], figures, rtol=0, atol=1e-6):
            raise ValueError(f"the predictions do not add up to test.classes.{name}")
    f1 = 2 * right / np.maximum(texts + predicted, 1)
    for name, by_class in {"balanced_accuracy": recall, "macro_f1": f1}.items():
        mean = by_class[texts > 0].mean()
        if name in test and not math.isclose(test[name], mean, abs_tol=1e-6):
            raise ValueError(f"the predictions do not add up to test.{name}")
