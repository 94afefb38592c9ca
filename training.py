"""Training and evaluation of a classifier, as the protocol has them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from classifier import classify, may_merge
from data_utils import Batch, Splits, merge_batches
from experiment_config import ExperimentConfig
from gpt_model import GPTModel


def report(line: str) -> None:
    """Print a line of results at once, above the progress bar if there is one."""
    tqdm.write(line)
    sys.stdout.flush()


MAX_MERGED_TEXTS = 32  # in one pass over several batches


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


@dataclass
class History:
    """What a training run left behind."""

    losses: list[LossRecord] = field(default_factory=list)
    epoch_accuracies: list[tuple[Accuracy, Accuracy]] = field(default_factory=list)


class AdamWInBackward:
    """AdamW that updates each part of the model as soon as its gradients are complete.

    They are freed at once, so that the gradients of a large model never are in memory together.
    Backward passes add up gradients as usual, and update only within :meth:`last_pass`. Used in
    a ``with`` statement, at whose end it lets go of the model.
    """

    def __init__(self, model: GPTModel, config: ExperimentConfig) -> None:
        self._is_last_pass = False
        self._parts: list[tuple[torch.optim.AdamW, list[nn.Parameter]]] = []
        self._hooks: list[RemovableHandle] = []
        others = [module for module in model.children() if module is not model.blocks]
        for part in (*model.blocks, *others):
            trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
            if trained:
                self._add_part(trained, config)

    def _add_part(self, trained: list[nn.Parameter], config: ExperimentConfig) -> None:
        optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._parts.append((optimizer, trained))
        n_complete = 0

        def count(_: Tensor) -> None:
            nonlocal n_complete
            n_complete = n_complete + 1 if self._is_last_pass else 0
            if n_complete == len(trained):
                optimizer.step()
                optimizer.zero_grad()
                n_complete = 0

        for parameter in trained:
            self._hooks.append(parameter.register_post_accumulate_grad_hook(count))

    def __enter__(self) -> AdamWInBackward:
        return self

    def __exit__(self, *exception: object) -> None:
        # Hooks hold the optimizer, which holds the parameters: a circle that no collector sees.
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def last_pass(self) -> Iterator[None]:
        """The backward pass inside completes the gradients and updates the weights."""
        self._is_last_pass = True
        yield
        self._is_last_pass = False
        for optimizer, trained in self._parts:
            # A part is left over if not all of its parameters took part in the loss.
            if any(parameter.grad is not None for parameter in trained):
                optimizer.step()
                optimizer.zero_grad()


def train(model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig) -> History:
    """Train what of ``model`` needs a gradient, printing losses and accuracies on the way.

    The loaders draw from PyTorch's global generator whenever they are iterated, also to
    evaluate; that order is part of the protocol.

    Raises:
        TrainingError: a loss is not finite.
    """
    torch.manual_seed(config.seed)
    history = History()
    epochs = _epoch_lengths(len(loaders.train), config)
    start = 0  # step of the window's first batch

    def evaluate_if_due(epoch: int, at_step: int) -> None:
        if at_step % config.eval_freq == 0:
            history.losses.append(_evaluate_losses(model, loaders, config, epoch, at_step))

    model.train()
    with (
        AdamWInBackward(model, config) as optimizer,
        tqdm(total=sum(epochs), desc="training", unit="step", disable=None) as progress,
    ):
        for epoch, n_batches in enumerate(epochs, start=1):
            batches = islice(loaders.train, n_batches)
            while window := list(islice(batches, config.accumulation_steps)):
                *groups, last_group = _merge(window, config)
                step = start
                for group in groups:
                    step += _backward(model, group, len(window), config, step)
                # Up to the window's last, steps are evaluated with the weights before its update.
                last_step = start + len(window) - 1
                for earlier_step in range(start, last_step):
                    evaluate_if_due(epoch, earlier_step)
                with optimizer.last_pass():
                    _backward(model, last_group, len(window), config, step)
                evaluate_if_due(epoch, last_step)
                start = last_step + 1
                progress.update(len(window))
            history.epoch_accuracies.append(_evaluate_epoch(model, loaders, config))
    return history


def _backward(
    model: GPTModel, group: Batch, window: int, config: ExperimentConfig, step: int
) -> int:
    """Add the gradient of a group of batches to that of the mean over ``window`` batches.

    ``step`` is the group's first; returns how many batches the group holds.
    """
    losses = batch_losses(model, group, config)
    for i, loss in enumerate(losses):
        _require_finite(loss.item(), f"The training loss at step {step + i}")
    (torch.stack(losses).sum() / window).backward()
    return len(losses)


def batch_losses(model: GPTModel, group: Batch, config: ExperimentConfig) -> list[Tensor]:
    """Cross-entropy of each batch of a merged group: scalars, each the mean over its texts."""
    logits, labels = classify(model, group, config)
    parts = zip(logits.split(config.batch_size), labels.split(config.batch_size), strict=True)
    return [F.cross_entropy(*part, ignore_index=config.ignore_index) for part in parts]


def _merge(batches: Iterable[Batch], config: ExperimentConfig) -> Iterator[Batch]:
    """The same texts in fewer batches, where that costs little memory and changes no result.

    Above frozen blocks several batches take hardly longer than one.
    """
    batches = iter(batches)
    for batch in batches:
        n_more = 0
        if batch.n_blocks and may_merge(config):
            n_more = MAX_MERGED_TEXTS // config.batch_size - 1
        yield merge_batches([batch, *islice(batches, max(0, n_more))])


def _epoch_lengths(batches_per_epoch: int, config: ExperimentConfig) -> list[int]:
    """How many batches each epoch has; ``max_steps`` cuts the last one short."""
    n_steps = config.num_epochs * batches_per_epoch
    if config.max_steps is not None:
        n_steps = min(n_steps, config.max_steps)
    starts = range(0, n_steps, batches_per_epoch)
    return [min(batches_per_epoch, n_steps - start) for start in starts]


@torch.no_grad()
def evaluate_loss(
    model: GPTModel, loader: DataLoader, config: ExperimentConfig, n_batches: int
) -> float:
    """The mean of the losses of the first ``n_batches`` batches, or of all if there are fewer."""
    with _evaluating(model):
        groups = _merge(islice(loader, n_batches), config)
        losses = [loss.item() for group in groups for loss in batch_losses(model, group, config)]
    return sum(losses) / len(losses)


@torch.no_grad()
def classify_texts(
    model: GPTModel, loader: DataLoader, config: ExperimentConfig, n_batches: int | None = None
) -> Predictions:
    """Classify the first ``n_batches`` batches, by default all of them, in the loader's order.

    Raises:
        TrainingError: a logit is not finite.
    """
    # A few batches need no bar of their own.
    batches = islice(loader, n_batches) if n_batches else _with_bar(loader)
    logits, labels = [], []
    with _evaluating(model):
        for batch in _merge(batches, config):
            for found, part in zip(classify(model, batch, config), (logits, labels), strict=True):
                part.append(found.cpu())
            _require_finite(logits[-1].abs().sum().item(), "A logit of the trained model")
    return Predictions(torch.cat(logits), torch.cat(labels))


def _with_bar(loader: DataLoader) -> Iterable[Batch]:
    return tqdm(loader, desc="evaluation", unit="batch", leave=False, disable=None)


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
    train_accuracy = classify_texts(model, loaders.train, config, config.eval_iter).accuracy
    validation_accuracy = classify_texts(
        model, loaders.validation, config, config.eval_iter
    ).accuracy
    report(f"Training accuracy: {train_accuracy} | Validation accuracy: {validation_accuracy}")
    return train_accuracy, validation_accuracy


def _require_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} is {loss}: it is not finite, so the run stops. A smaller --learning_rate "
            "helps against divergence; an --ignore_index of 0 or 1 can leave a batch without "
            "any label."
        )
