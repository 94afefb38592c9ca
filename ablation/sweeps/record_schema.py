"""What a record may hold, as data, and which of its figures must agree.

A dict is an object. ``"name?"`` may be missing, and ``"*"`` is for entries that are not named;
without a ``"*"``, these are let through. ``[kind, least, most]`` is a list. ``(kind, None)`` may
be null.
"""

import math
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import one_hot

from ablation.config.commands import format_command
from ablation.config.options import ExperimentConfig, changed_options, tagged
from ablation.config.rows import SOURCE
from ablation.config.rules import value_problems
from ablation.finetuning.metrics import measure_classes
from ablation.finetuning.outcomes import History, Predictions
from ablation.system.output import printable
from data_utils import PARTS

STATUSES = ("complete", "failed", "interrupted")
COLUMNS = {"index": int, "label": int, "probability": float, "prediction": int}  # of predictions
N_NAMED = 3  # problems of one record


class Value(NamedTuple):
    """A single value: what it is, in words, and a test of it."""

    what: str
    allows: Callable[[Any], bool]


def whole(low: int = 0, high: int = 2**53) -> Value:
    """A whole number in a range."""
    words = f"a whole number from {low} to {high}"
    return Value(words, lambda x: type(x) is int and low <= x <= high)


def number(low: float = 0.0, high: float = 1e9) -> Value:
    """A number in a range."""
    words = f"a number from {low:g} to {high:g}"
    return Value(words, lambda x: type(x) in (int, float) and low <= x <= high)


def text(what: str = "a text", pattern: str = "(?s:.*)") -> Value:
    """A text that matches a pattern as a whole."""
    return Value(what, lambda x: isinstance(x, str) and bool(re.fullmatch(pattern, x)))


def option(hint: Any) -> Value:
    """A flag's value by its type hint; its range is for the rules of the options."""

    def allows(x: Any) -> bool:
        if isinstance(x, bool):
            return hint is bool
        whole_is_fine = isinstance(x, int) and isinstance(0.0, hint)
        return (isinstance(x, hint) or whole_is_fine) and "\0" not in str(x)

    return Value(f"of the type {getattr(hint, '__name__', hint)}", allows)


TEXT, SHARE, LOSS, SEED = text(), number(0, 1), number(high=1e39), whole(high=2**63 - 1)
SHA256 = text("a SHA-256", "[0-9a-f]{64}")
SHA256S = text("one SHA-256, or several joined by +", r"[0-9a-f]{64}(\+[0-9a-f]{64})*")
COUNT = {"correct": whole(), "total": whole(1, 10**9)}
PARAMETERS, SOME = whole(1, 10**13), (whole(high=10**6), None)
FLAGS = {
    **{f"{name}?": option(hint) for name, hint in get_type_hints(ExperimentConfig).items()},
    "*": Value("a flag of this version", lambda x: False),
}
WEIGHTS = {"weights": TEXT, "file_sha256?": SHA256, "seed?": SEED}
DEVICE = {"type?": TEXT, "name?": TEXT, "threads?": SOME, "cores?": SOME, "processes?": SOME}
RUN = {
    "row": (Value("the name of a row", lambda x: type(x) in (int, str)), None),
    "table?": TEXT,
    "seed": SEED,
    "command": TEXT,
    "flags": FLAGS,
    "overrides": (FLAGS, None),
    "commit?": (TEXT, None),
    "weights?": {**WEIGHTS, "repository?": TEXT, "revision?": TEXT, "torch?": TEXT},
}
INCOMPLETE = {**RUN, "error": TEXT, "device?": DEVICE, "versions?": {"*": TEXT}}
STEP = {"epoch": whole(low=1), "step": whole(), "train": LOSS, "validation": LOSS}
CLASS = {"label": TEXT, "texts": whole(), "precision": SHARE, "recall": SHARE}
COMPLETE = {
    **RUN,
    "device": DEVICE,
    "versions": {"*": TEXT},
    "data": {"name": TEXT, "split_sha256": SHA256, "file_sha256?": (SHA256S, None)},
    "parameters": {"trained": PARAMETERS, "total": PARAMETERS},
    "seconds": {
        **{"features": number(), "training": number()},
        **{"stored?": number(), "evaluation?": number()},
    },
    "states?": {"found": whole(), "computed": whole()},
    "peak_memory_bytes?": whole(high=2**50),
    "accuracy": dict.fromkeys(PARTS, COUNT),
    "history": {
        "losses": [STEP, 1, math.inf],
        "epoch_accuracies": [[COUNT, 2, 2], 0, math.inf],
        "validations?": [{"accuracy": COUNT, "loss": LOSS}, 1, math.inf],
        "kept_epoch?": whole(low=1),
    },
    "test?": {
        "balanced_accuracy": SHARE,
        "macro_f1?": SHARE,
        "classes": [CLASS, 2, math.inf],
        "confusion": [[whole(), 2, math.inf], 2, math.inf],
    },
    "predictions_sha256": SHA256,
    "kept?": {"model?": SHA256, "export?": SHA256},
    "not_kept?": {"model?": TEXT, "export?": TEXT},
}


def type_problems(found: Any, kind: Any, place: str = "") -> Iterator[str]:
    """A sentence for everything in a value that is not of its kind, with its place."""
    shown = f"{place or 'it'} is {reprlib.repr(found)}"
    match kind:
        case Value(what, allows):
            if not allows(found):
                yield f"{shown}, not {what}"
        case (inner, None):
            if found is not None:
                yield from type_problems(found, inner, place)
        case [inner, least, most]:
            if not isinstance(found, list) or not least <= len(found) <= most:
                yield f"{shown}, not a list of the right length"
                return
            for i, item in enumerate(found):
                yield from type_problems(item, inner, f"{place}[{i}]")
        case dict():
            if not isinstance(found, dict):
                yield f"{shown}, not an object"
                return
            prefix = f"{place}." if place else ""
            for name, value in found.items():
                if inner := kind.get(name) or kind.get(f"{name}?") or kind.get("*"):
                    yield from type_problems(value, inner, f"{prefix}{name}")
            for name in kind:
                if name not in found and not name.endswith(("?", "*")):
                    yield f"{prefix}{name} is missing"


def check_result(result: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless a record's ``result.json`` is what this project writes: every
    entry of its type and in its range, and none in contradiction to another."""
    if result.get("status") not in STATUSES:
        raise ValueError(f"status is {reprlib.repr(result.get('status'))}")
    is_complete = result["status"] == "complete"
    problems = type_problems(result, COMPLETE if is_complete else INCOMPLETE)
    if not (found := list(islice(problems, N_NAMED))):
        config = ExperimentConfig(**result["flags"])
        asked = replace(config, **(result["overrides"] or {}))
        found = [
            *value_problems(config, changed_options(config)),
            *value_problems(asked, given={}),
        ]
    if not found:
        found = [*_flag_contradictions(result, config)]
        found += _figure_contradictions(result, config) if is_complete else []
    if found:
        raise ValueError("; ".join(map(str, found[:N_NAMED])))


def _flag_contradictions(result: Mapping[str, Any], config: ExperimentConfig) -> Iterator[str]:
    if result["seed"] != config.seed:
        yield f"seed is {result['seed']}, and flags.seed {config.seed}"
    row = SOURCE.row_of(config)
    # What rows another table has, only that table says.
    if "table" not in result and result["row"] != (row and row.name):
        yield f"row is {result['row']}, and its flags are those of row {row and row.name}"
    if _flags_in(result["command"]) != _flags_in(format_command(config)):
        yield f"command is {reprlib.repr(result['command'])}, and flags say otherwise"
    said = {
        f"weights.{name}": (name, value)
        for name, value in result.get("weights", {}).items()
        if name in ("weights", "seed")
    }
    # LoRA's flags may be given beside several rows, for those that use it.
    unused = tagged("circumstance", "repeat", *([] if config.uses_lora else ["lora"]))
    for name, value in (result["overrides"] or {}).items():
        if name not in unused:
            said[f"overrides.{name}"] = (name, value)
    for place, (name, value) in said.items():
        if value != getattr(config, name):
            yield f"{place} is {reprlib.repr(value)}, and flags say otherwise"


def _flags_in(command: str) -> list[str]:
    """The flags of a command with their values, however these are quoted."""
    return sorted(re.sub(r"[\"'\\]", "", printable(command)).split(" --")[1:])


def _figure_contradictions(result: Mapping[str, Any], config: ExperimentConfig) -> Iterator[str]:
    losses, accuracies = result["history"]["losses"], result["history"]["epoch_accuracies"]
    validations = result["history"].get("validations", [])
    counts = [result["accuracy"][part] for part in PARTS]
    counts += [validation["accuracy"] for validation in validations]
    for count in (*counts, *(count for pair in accuracies for count in pair)):
        if count["correct"] > count["total"]:
            yield f"{count['correct']} of {count['total']} texts are correct"
    if result["parameters"]["trained"] > result["parameters"]["total"]:
        yield "more parameters are trained than there are"
    if any(loss["step"] != i * config.eval_freq for i, loss in enumerate(losses)):
        yield f"history: its steps are not the multiples of {config.eval_freq}"
    n_epochs = [*(loss["epoch"] for loss in losses), len(accuracies), len(validations)]
    if max(n_epochs) > config.num_epochs:
        yield f"history: more than {config.num_epochs} epochs"
    best = History.from_json(result["history"]).best_epoch if config.keep_best else None
    if result["history"].get("kept_epoch") != best:
        yield f"history.kept_epoch is not {best}"
    test = result.get("test", {"classes": [], "confusion": []})
    if {len(test["classes"])} != {len(row) for row in (test["confusion"], *test["confusion"])}:
        yield "test.confusion is not as long and as wide as there are classes"
    if config.dataset and not ("test" in result and result["data"].get("file_sha256")):
        yield "test or data.file_sha256 is missing, which runs on a --dataset have"


def check_predictions(predictions: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the table of predictions is what a record's figures were counted
    from. Columns that are not named here are let through."""
    if missing := COLUMNS.keys() - predictions.columns:
        raise ValueError(f"the predictions lack {', '.join(sorted(missing))}")
    test, accuracy = result.get("test"), result["accuracy"]["test"]
    names = [part["label"] for part in test["classes"]] if test else ["ham", "spam"]
    both = predictions[["label", "prediction"]]
    if predictions["index"].tolist() != list(range(accuracy["total"])):
        last = accuracy["total"] - 1
        raise ValueError(f"the predictions do not count from 0 to {last}, as the test does")
    if not both.isin(range(len(names))).all(axis=None):
        raise ValueError(f"a prediction or label is none of the {len(names)} classes")
    if not predictions["probability"].between(0, 1).all():
        raise ValueError("a probability is not from 0 to 1")
    if (both["label"] == both["prediction"]).sum() != accuracy["correct"]:
        raise ValueError("the predictions do not add up to accuracy.test")
    if test:
        labels, predicted = torch.tensor(both.to_numpy()).T
        measured = measure_classes(Predictions(one_hot(predicted, len(names)), labels), names)
        expected = _figures_by_class(measured)
        for name, figures in _figures_by_class(test).items():
            if not np.allclose(figures, expected[name], rtol=0, atol=1e-6):
                raise ValueError(f"the predictions do not add up to test.{name}")


def _figures_by_class(test: Mapping[str, Any]) -> dict[str, Any]:
    figures = {
        f"classes.{name}": [part[name] for part in test["classes"]]
        for name in ("texts", "precision", "recall")
    }
    means = {name: test[name] for name in ("balanced_accuracy", "macro_f1") if name in test}
    return {"confusion": test["confusion"], **figures, **means}
