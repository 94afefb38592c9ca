"""Training and evaluation of a classifier, as the protocol has them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from classifier import read_logits
from data_utils import Batch, Splits
from experiment_config import ExperimentConfig
from gpt_model import GPTModel


def report(line: str) -> None:
    """Print a line of results at once, above the progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


class TrainingError(RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True)
class Accuracy:
    """``correct`` texts out of ``total``."""

    correct: int
    total: int

    @property
    def percent(self) -> float:
        """In percent; not a number where there was nothing to classify."""
        return 100 * self.correct / self.total if self.total else math.nan

    def __str__(self) -> str:
        return f"{self.percent:.2f}%"


@dataclass(frozen=True)
class LossRecord:
    """Mean losses after the update of batch ``step``, counted from 0 over all epochs."""

    epoch: int
    step: int
    train: float
    validation: float


@dataclass
class History:
    """What a training run left behind."""

    losses: list[LossRecord] = field(default_factory=list)
    epoch_accuracies: list[tuple[Accuracy, Accuracy]] = field(default_factory=list)
    seconds: float = 0.0


def train(model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig) -> History:
    """Train what of ``model`` needs a gradient, printing losses and accuracies on the way.

    The loaders draw from PyTorch's global generator whenever they are iterated, also to
    evaluate; that order is part of the protocol.

    Raises:
        TrainingError: a loss is not finite.
    """
    torch.manual_seed(config.seed)
    started = time.perf_counter()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    history = History()
    epochs = _epoch_lengths(len(loaders.train), config)
    step = 0
    model.train()
    with tqdm(total=sum(epochs), desc="training", unit="step", disable=None) as progress:
        for epoch, n_batches in enumerate(epochs, start=1):
            for i, batch in enumerate(islice(loaders.train, n_batches)):
                window = _window_size(i, n_batches, config.accumulation_steps)
                loss = batch_loss(model, batch, config)
                _require_finite(loss.item(), f"The training loss at step {step}")
                (loss / window).backward()
                if (i + 1) % config.accumulation_steps == 0 or i + 1 == n_batches:
                    optimizer.step()
                    optimizer.zero_grad()
                if step % config.eval_freq == 0:
                    history.losses.append(_evaluate_losses(model, loaders, config, epoch, step))
                step += 1
                progress.update()
            history.epoch_accuracies.append(_evaluate_epoch(model, loaders, config))
    history.seconds = time.perf_counter() - started
    report(f"Training completed in {history.seconds / 60:.2f} minutes.")
    return history


def _epoch_lengths(batches_per_epoch: int, config: ExperimentConfig) -> list[int]:
    """How many batches each epoch has; ``max_steps`` cuts the last one short."""
    n_steps = config.num_epochs * batches_per_epoch
    if config.max_steps is not None:
        n_steps = min(n_steps, config.max_steps)
    starts = range(0, n_steps, batches_per_epoch)
    return [min(batches_per_epoch, n_steps - start) for start in starts]


def _window_size(i: int, n_batches: int, accumulation_steps: int) -> int:
    """Batches in the update that batch ``i`` belongs to; an epoch's last may have fewer."""
    start = i - i % accumulation_steps
    return min(accumulation_steps, n_batches - start)


def batch_loss(model: GPTModel, batch: Batch, config: ExperimentConfig) -> Tensor:
    """Cross-entropy of a batch: its mean over the texts, a scalar."""
    logits, labels = classify(model, batch, config)
    return F.cross_entropy(logits, labels, ignore_index=config.ignore_index)


def classify(model: GPTModel, batch: Batch, config: ExperimentConfig) -> tuple[Tensor, Tensor]:
    """The logits (B, C) and the labels (B,) of a batch, on the model's device."""
    batch = batch.to(model.device)
    return read_logits(model(batch.tokens), batch.lengths, config), batch.labels


@torch.no_grad()
def evaluate_loss(
    model: GPTModel, loader: DataLoader, config: ExperimentConfig, n_batches: int
) -> float:
    """The mean of the losses of the first ``n_batches`` batches, or of all if there are fewer."""
    with _evaluating(model):
        losses = [batch_loss(model, batch, config).item() for batch in islice(loader, n_batches)]
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate_accuracy(
    model: GPTModel, loader: DataLoader, config: ExperimentConfig, n_batches: int | None = None
) -> Accuracy:
    """Accuracy over the first ``n_batches`` batches, by default over all of them."""
    correct = total = 0
    with _evaluating(model):
        for batch in islice(loader, n_batches):
            logits, labels = classify(model, batch, config)
            correct += int((logits.argmax(dim=-1) == labels).sum())
            total += len(labels)
    return Accuracy(correct, total)


@contextmanager
def _evaluating(model: GPTModel) -> Iterator[None]:
    model.eval()
    yield
    model.train()


def _evaluate_losses(
    model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig, epoch: int, step: int
) -> LossRecord:
    train_loss = evaluate_loss(model, loaders.train, config, config.eval_iter)
    validation_loss = evaluate_loss(model, loaders.validation, config, config.eval_iter)
    _require_finite(train_loss + validation_loss, f"A loss evaluated after step {step}")
    report(
        f"Ep {epoch} (Step {step:06d}): Train loss {train_loss:.3f}, Val loss {validation_loss:.3f}"
    )
    return LossRecord(epoch, step, train_loss, validation_loss)


def _evaluate_epoch(
    model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig
) -> tuple[Accuracy, Accuracy]:
    train_accuracy = evaluate_accuracy(model, loaders.train, config, config.eval_iter)
    validation_accuracy = evaluate_accuracy(model, loaders.validation, config, config.eval_iter)
    report(f"Training accuracy: {train_accuracy} | Validation accuracy: {validation_accuracy}")
    return train_accuracy, validation_accuracy


def _require_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} is {loss}: it is not finite, so the run stops. A smaller --learning_rate "
            "helps against divergence; an --ignore_index of 0 or 1 can leave a batch without "
            "any label."
        )
