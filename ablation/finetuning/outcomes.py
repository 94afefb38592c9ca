"""What an experiment gives: losses, predictions, accuracies, and the lines that it prints."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from data_utils import Splits


@dataclass(frozen=True)
class Accuracy:
    """``correct`` texts out of ``total``."""

    correct: int
    total: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Accuracy":
        """What ``dataclasses.asdict`` and JSON made of it, turned back."""
        return cls(content["correct"], content["total"])

    @property
    def percent(self) -> float:
        """In percent; not a number where there was nothing to classify."""
        return 100 * self.correct / self.total if self.total else math.nan

    def __str__(self) -> str:
        return f"{self.percent:.2f}%"


@dataclass(frozen=True)
class Predictions:
    """What a model made of N texts."""

    logits: Tensor  # (N, C) float32, on the CPU
    labels: Tensor  # (N,) int64

    @property
    def classes(self) -> Tensor:
        """The predicted class (N,) of each text."""
        return self.logits.argmax(dim=-1)

    @property
    def accuracy(self) -> Accuracy:
        """How many are right."""
        return Accuracy(int((self.classes == self.labels).sum()), len(self.labels))


@dataclass(frozen=True)
class LossRecord:
    """Mean losses after the update of batch ``step``, counted from 0 over all epochs."""

    epoch: int
    step: int
    train: float
    validation: float

    def __str__(self) -> str:
        return (
            f"Ep {self.epoch} (Step {self.step:06d}): Train loss {self.train:.3f}, "
            f"Val loss {self.validation:.3f}"
        )


def format_epoch(train: Accuracy, validation: Accuracy) -> str:
    """The line that follows an epoch."""
    return f"Training accuracy: {train} | Validation accuracy: {validation}"


@dataclass(frozen=True)
class Validation:
    """The whole validation part, with the weights that an epoch ended with."""

    accuracy: Accuracy
    loss: float

    @property
    def rank(self) -> tuple[int, float]:
        """Greater for a better epoch: by accuracy, and where that is equal, by loss."""
        return self.accuracy.correct, -self.loss


@dataclass
class History:
    """What a training run left behind. ``validations``, by epoch, and the epoch whose weights were
    kept (from 1) are there only where ``--keep_best`` or ``--stop_after`` asks for them."""

    losses: list[LossRecord] = field(default_factory=list)
    epoch_accuracies: list[tuple[Accuracy, Accuracy]] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    kept_epoch: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "History":
        """What :meth:`to_json` and JSON made of it, turned back."""
        losses = [LossRecord(**loss) for loss in content["losses"]]
        pairs = content["epoch_accuracies"]
        whole = content.get("validations", [])
        return cls(
            losses,
            [tuple(Accuracy.from_json(part) for part in pair) for pair in pairs],
            [Validation(Accuracy.from_json(v["accuracy"]), v["loss"]) for v in whole],
            content.get("kept_epoch"),
        )

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON, without what was not asked for."""
        optional = ("validations", "kept_epoch")
        return {k: v for k, v in asdict(self).items() if v or k not in optional}

    @property
    def best_epoch(self) -> int:
        """The best epoch by its :class:`Validation`, from 1, and of equal ones the first; 0 before
        there is one."""
        ranks = [validation.rank for validation in self.validations]
        return 1 + ranks.index(max(ranks)) if ranks else 0

    def lines(self) -> list[str]:
        """The lines that were printed on the way."""
        lines = []
        n_epochs = max([loss.epoch for loss in self.losses] + [len(self.epoch_accuracies)])
        for epoch in range(1, n_epochs + 1):
            lines += [str(loss) for loss in self.losses if loss.epoch == epoch]
            lines += [format_epoch(*pair) for pair in self.epoch_accuracies[epoch - 1 : epoch]]
        return lines


@dataclass(frozen=True)
class ExperimentResult:
    """What one experiment gave.

    ``seconds`` has ``features`` (spent on the hidden states it rests on, also by another experiment
    of the same sweep), ``stored`` (what those that were found in a store had taken), ``training``
    (with the evaluations in between) and ``evaluation`` (of the whole parts, at the end).
    """

    history: History
    accuracy: Splits[Accuracy]
    test: Predictions
    test_lines: list[int]  # of the source file, where each test text begins
    class_names: tuple[str, ...]  # by number
    seconds: dict[str, float]
    n_states: dict[str, int]  # hidden states: "found" in a store, and "computed"
    n_trained: int  # parameters
    n_parameters: int  # trained or not
    peak_memory: int  # bytes
    machine: dict[str, Any]  # that computed it, as describe_machine has it
    weights: dict[str, Any]  # that it started from, as identify_weights has them
    kept: dict[str, str] = field(default_factory=dict)  # "model", "export": their SHA-256
    not_kept: dict[str, str] = field(default_factory=dict)  # the same: why they are not there


def format_minutes(seconds: Mapping[str, float]) -> str:
    """The line that follows training."""
    minutes = (seconds["features"] + seconds["training"]) / 60
    return f"Training completed in {minutes:.2f} minutes."


def format_accuracies(accuracy: Splits[Accuracy]) -> list[str]:
    """The lines that end a run."""
    return [
        f"Training accuracy: {accuracy.train}",
        f"Validation accuracy: {accuracy.validation}",
        f"Test accuracy: {accuracy.test}",
    ]
