"""Training and evaluation of a classifier, as the protocol has them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from ablation.classifier.build import classify, may_merge
from ablation.config.options import ExperimentConfig
from ablation.finetuning.outcomes import Accuracy, History, LossRecord, Predictions, format_epoch
from ablation.system.errors import TrainingError
from ablation.system.output import print_lines
from ablation.system.parallel import add_gradients, size
from ablation.system.progress import Progress, follow
from data_utils import Batch, Splits, merge_batches
from gpt_model import GPTModel

MAX_MERGED_TEXTS = 32  # in one pass over several batches


def trained_parts(model: GPTModel) -> list[list[nn.Parameter]]:
    """What trains of each block, and of each other part, where anything does: what is updated, and
    its gradients freed, together."""
    others = [module for module in model.children() if module is not model.blocks]
    parts = ([p for p in part.parameters() if p.requires_grad] for part in (*model.blocks, *others))
    return [trained for trained in parts if trained]


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
        for trained in trained_parts(model):
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
                _update(optimizer, trained)
                n_complete = 0

        for parameter in trained:
            self._hooks.append(parameter.register_post_accumulate_grad_hook(count))

    def __enter__(self) -> AdamWInBackward:
        return self

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers of each parameter, by its place and name: 0.12.exp_avg."""
        return {
            f"{i}.{j}.{name}": tensor
            for i, (optimizer, trained) in enumerate(self._parts)
            for j, parameter in enumerate(trained)
            for name, tensor in optimizer.state[parameter].items()
        }

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`moments` gave."""
        for key, tensor in moments.items():
            i, j, name = key.split(".")
            optimizer, trained = self._parts[int(i)]
            optimizer.state[trained[int(j)]][name] = tensor.to(trained[int(j)].device)

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
                _update(optimizer, trained)


def _update(optimizer: torch.optim.AdamW, trained: list[nn.Parameter]) -> None:
    add_gradients(trained)
    optimizer.step()
    optimizer.zero_grad()


@dataclass
class TrainingState:
    """Where training stands between two updates: with PyTorch's generator, all to go on from."""

    model: GPTModel
    optimizer: AdamWInBackward
    history: History = field(default_factory=History)
    step: int = 0  # batches that were trained on
    # PyTorch's global generator as it was before the order of this epoch was drawn.
    epoch_generator: Tensor = field(default_factory=torch.get_rng_state)


class Keeper:
    """Looks after a training run. This one does nothing; others keep it, or end it."""

    def restore(self, state: TrainingState) -> None:
        """Called before the first step, to bring a state to where it was."""

    def after_update(self, state: TrainingState, ends_epoch: bool) -> None:
        """Called after each update, its evaluations included. What it raises ends training."""


def train(
    model: GPTModel,
    loaders: Splits[DataLoader],
    config: ExperimentConfig,
    keeper: Keeper | None = None,
) -> History:
    """Train what of ``model`` needs a gradient, printing losses and accuracies on the way.

    The loaders draw from PyTorch's global generator whenever they are iterated, also to
    evaluate; that order is part of the protocol.

    Raises:
        TrainingError: a loss is not finite.
    """
    keeper = keeper or Keeper()
    torch.manual_seed(config.seed)
    epochs = _epoch_lengths(len(loaders.train), config)

    def evaluate_if_due(epoch: int, at_step: int) -> None:
        if at_step % config.eval_freq == 0:
            state.history.losses.append(_evaluate_losses(model, loaders, config, epoch, at_step))

    model.train()
    with (
        AdamWInBackward(model, config) as optimizer,
        Progress("training", "steps", sum(epochs)) as progress,
    ):
        state = TrainingState(model, optimizer)
        keeper.restore(state)
        progress.update(state.step)
        for epoch, end in enumerate(accumulate(epochs), start=1):
            batches = _rest_of_epoch(loaders.train, state, epochs[epoch - 1], end)
            while window := list(islice(batches, config.accumulation_steps)):
                *groups, last_group = _merge(window, config)
                step = state.step
                for group in groups:
                    step += _backward(model, group, len(window), config, step)
                # Up to the window's last, steps are evaluated with the weights before its update.
                last_step = state.step + len(window) - 1
                for earlier_step in range(state.step, last_step):
                    evaluate_if_due(epoch, earlier_step)
                with optimizer.last_pass():
                    _backward(model, last_group, len(window), config, step)
                evaluate_if_due(epoch, last_step)
                state.step = last_step + 1
                progress.update(len(window))
                if state.step == end:
                    accuracies = _evaluate_epoch(model, loaders, config)
                    state.history.epoch_accuracies.append(accuracies)
                keeper.after_update(state, ends_epoch=state.step == end)
    return state.history


def _rest_of_epoch(
    loader: DataLoader, state: TrainingState, n_batches: int, end: int
) -> Iterator[Batch]:
    """What is left of the epoch that ends at step ``end``, in the order in which it was drawn."""
    n_done = n_batches - (end - state.step)
    if n_done >= n_batches:
        return iter(())
    if n_done == 0:
        state.epoch_generator = torch.get_rng_state()
        return islice(loader, n_batches)
    generator = torch.get_rng_state()
    torch.set_rng_state(state.epoch_generator)
    batches = islice(loader, n_batches)
    deque(islice(batches, n_done), maxlen=0)
    torch.set_rng_state(generator)
    return batches


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

    Above frozen blocks several batches take hardly longer than one; and what several processes
    share out should have a text for each.
    """
    batches = iter(batches)
    for batch in batches:
        n_texts = MAX_MERGED_TEXTS if batch.n_blocks and may_merge(config) else size()
        n_more = n_texts // config.batch_size - 1
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
    batches = (
        islice(loader, n_batches)
        if n_batches
        else follow(loader, "evaluation", "batches", len(loader), leave=False)
    )
    logits, labels = [], []
    with _evaluating(model):
        for batch in _merge(batches, config):
            for found, part in zip(classify(model, batch, config), (logits, labels), strict=True):
                part.append(found.cpu())
            _require_finite(logits[-1].abs().sum().item(), "A logit of the trained model")
    return Predictions(torch.cat(logits), torch.cat(labels))


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
    record = LossRecord(epoch, step, train_loss, validation_loss)
    print_lines(str(record))
    return record


def _evaluate_epoch(
    model: GPTModel, loaders: Splits[DataLoader], config: ExperimentConfig
) -> tuple[Accuracy, Accuracy]:
    train_accuracy = classify_texts(model, loaders.train, config, config.eval_iter).accuracy
    validation_accuracy = classify_texts(
        model, loaders.validation, config, config.eval_iter
    ).accuracy
    print_lines(format_epoch(train_accuracy, validation_accuracy))
    return train_accuracy, validation_accuracy


def _require_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} is {loss}: it is not finite, so the run stops. A smaller --learning_rate "
            "helps against divergence; an --ignore_index that is a class can leave a batch without "
            "any label."
        )
