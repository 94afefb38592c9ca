"""Training and evaluation of a classifier, as the protocol has them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from classifier import classify
from data_utils import Batch, Splits, merge_batches
from experiment_config import ExperimentConfig
from gpt_model import GPTModel


def report(line: str) -> None:
    """Print a line of results at once, above the progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


MAX_MERGED_TEXTS = 32  # in one pass over an accumulation window


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


def train(model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig) -> History:
    """Train what of ``model`` needs a gradient, printing losses and accuracies on the way.

    The loaders draw from PyTorch's global generator whenever they are iterated, also to
    evaluate; that order is part of the protocol.

    Raises:
        TrainingError: a loss is not finite.
    """
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    history = History()
    epochs = _epoch_lengths(len(loaders.train), config)
    step = 0  # of the window's first batch

    def evaluate_if_due(epoch: int, at_step: int) -> None:
        if at_step % config.eval_freq == 0:
            history.losses.append(_evaluate_losses(model, loaders, config, epoch, at_step))

    model.train()
    with tqdm(total=sum(epochs), desc="training", unit="step", disable=None) as progress:
        for epoch, n_batches in enumerate(epochs, start=1):
            batches = islice(loaders.train, n_batches)
            while window := list(islice(batches, config.accumulation_steps)):
                _add_gradients(model, window, config, step)
                last_step = step + len(window) - 1
                for earlier_step in range(step, last_step):
                    evaluate_if_due(epoch, earlier_step)
                optimizer.step()
                optimizer.zero_grad()
                evaluate_if_due(epoch, last_step)
                step = last_step + 1
                progress.update(len(window))
            history.epoch_accuracies.append(_evaluate_epoch(model, loaders, config))
    return history


def _add_gradients(
    model: GPTModel, window: list[Batch], config: ExperimentConfig, step: int
) -> None:
    """Add the gradient of the mean of the batches' losses; the first batch is ``step``."""
    group_size = 1
    # Above frozen blocks several batches cost little memory, and hardly more time than one.
    # Without the causal mask, texts of different lengths would see each other's padding.
    if window[0].n_blocks and not (config.no_padding and config.disable_causal_mask):
        group_size = max(1, MAX_MERGED_TEXTS // config.batch_size)
    for start in range(0, len(window), group_size):
        group = window[start : start + group_size]
        logits, labels = classify(model, merge_batches(group), config)
        losses = [
            F.cross_entropy(*part, ignore_index=config.ignore_index)
            for part in zip(
                logits.split(config.batch_size), labels.split(config.batch_size), strict=True
            )
        ]
        for i, loss in enumerate(losses):
            _require_finite(loss.item(), f"The training loss at step {step + start + i}")
        (torch.stack(losses).sum() / len(window)).backward()


def _epoch_lengths(batches_per_epoch: int, config: ExperimentConfig) -> list[int]:
    """How many batches each epoch has; ``max_steps`` cuts the last one short."""
    n_steps = config.num_epochs * batches_per_epoch
    if config.max_steps is not None:
        n_steps = min(n_steps, config.max_steps)
    starts = range(0, n_steps, batches_per_epoch)
    return [min(batches_per_epoch, n_steps - start) for start in starts]


def batch_loss(model: GPTModel, batch: Batch, config: ExperimentConfig) -> Tensor:
    """Cross-entropy of a batch: its mean over the texts, a scalar."""
    logits, labels = classify(model, batch, config)
    return F.cross_entropy(logits, labels, ignore_index=config.ignore_index)


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
            _require_finite(logits.abs().sum().item(), "A logit of the trained model")
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
