"""Training and evaluation of a classifier, as the protocol has them."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ablation.classifier.build import GPTClassifier
from ablation.finetuning.adamw import AdamWInBackward
from ablation.finetuning.best_epoch import (
    end_with_best,
    has_stalled,
    note_epoch,
    unchanged_generator,
)
from ablation.finetuning.losses import Loss, make_loss
from ablation.finetuning.outcomes import (
    History,
    LossRecord,
    Predictions,
    Validation,
    format_epoch,
)
from ablation.finetuning.training_state import Schedule, TrainingState
from ablation.system.errors import TrainingError
from ablation.system.output import print_lines
from ablation.system.parallel import size
from ablation.system.progress import Progress, follow
from data_utils import Batch, Splits, merge_batches

MAX_MERGED_TEXTS = 32  # in one pass over several batches


def train(
    classifier: GPTClassifier,
    loaders: Splits[DataLoader],
    schedule: Schedule,
    *callbacks: Any,
) -> History:
    """Train what of a classifier needs a gradient, printing losses and accuracies on the way.

    The loaders draw from PyTorch's global generator whenever they are iterated, also to evaluate;
    that order is part of the protocol. With ``keep_best``, it is left with the weights of its best
    epoch. Raises ``TrainingError`` if a loss is not finite.

    ``callbacks`` look after the run: ``restore(state)`` brings a :class:`TrainingState` to where it
    was before the first step, and ``after_update(state, ends_epoch)`` follows each update and its
    evaluations. What they raise ends training.
    """
    torch.manual_seed(schedule.seed)
    loss = make_loss(schedule, loaders.train.dataset.labels, len(classifier.gpt.head.bias))
    epochs = schedule.epoch_lengths(len(loaders.train))

    def evaluate_if_due(epoch: int, step: int) -> None:
        if step % schedule.eval_freq == 0:
            losses = mean_losses(classifier, loaders, schedule.eval_iter, loss)
            _require_finite(sum(losses), f"A loss evaluated after step {step}")
            state.history.losses.append(LossRecord(epoch, step, *losses))
            print_lines(str(state.history.losses[-1]))

    def evaluate_epoch() -> None:
        evaluated = (loaders.train, loaders.validation)
        found = [
            classify_texts(classifier, part, schedule.eval_iter).accuracy for part in evaluated
        ]
        state.history.epoch_accuracies.append(tuple(found))
        print_lines(format_epoch(*found))
        if schedule.compares_epochs:
            with unchanged_generator():
                predictions = classify_texts(classifier, loaders.validation)
            validation_loss = loss(predictions.logits, predictions.labels).item()
            _require_finite(validation_loss, "The loss of the validation part")
            note_epoch(state, schedule, Validation(predictions.accuracy, validation_loss))

    classifier.train()
    with (
        AdamWInBackward(classifier.gpt, schedule.learning_rate, schedule.weight_decay) as optimizer,
        Progress("training", "steps", sum(epochs)) as progress,
    ):
        state = TrainingState(classifier.gpt, optimizer, epoch_ends=list(accumulate(epochs)))
        for callback in callbacks:
            callback.restore(state)
        progress.skip(state.step)
        for epoch, end in enumerate(state.epoch_ends, start=1):
            if has_stalled(state.history, schedule):
                break
            batches = _rest_of_epoch(loaders.train, state, epochs[epoch - 1], end)
            while window := list(islice(batches, schedule.accumulation_steps)):
                *groups, last_group = group_batches(window, classifier)
                step = state.step
                for group in groups:
                    _backward(classifier, group, len(window), loss, step)
                    step += len(group)
                # Up to the window's last, steps are evaluated with the weights before its update.
                last_step = state.step + len(window) - 1
                for earlier_step in range(state.step, last_step):
                    evaluate_if_due(epoch, earlier_step)
                with optimizer.last_pass():
                    _backward(classifier, last_group, len(window), loss, step)
                evaluate_if_due(epoch, last_step)
                state.step = last_step + 1
                progress.update(len(window))
                if state.step == end:
                    evaluate_epoch()
                for callback in callbacks:
                    callback.after_update(state, ends_epoch=state.step == end)
    end_with_best(state, schedule, len(epochs))
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


def group_batches(batches: Iterable[Batch], classifier: GPTClassifier) -> Iterator[list[Batch]]:
    """Batches in groups that go through the model together, where that costs little memory and
    changes no result.

    Above frozen blocks several batches take hardly longer than one. With several processes, a
    group should have a text for each.
    """
    batches = iter(batches)
    for batch in batches:
        merges = batch.n_blocks and classifier.reading.mixes_lengths
        n_more = (MAX_MERGED_TEXTS if merges else size()) // len(batch) - 1
        yield [batch, *islice(batches, max(0, n_more))]


def batch_losses(classifier: GPTClassifier, group: list[Batch], loss: Loss) -> list[Tensor]:
    """The loss of each batch of a group: scalars, each the mean over its texts."""
    merged = merge_batches(group).to(classifier.device)
    sizes = [len(batch) for batch in group]
    parts = zip(classifier(merged).split(sizes), merged.labels.split(sizes), strict=True)
    return [loss(*part) for part in parts]


def _backward(
    classifier: GPTClassifier, group: list[Batch], window: int, loss: Loss, step: int
) -> None:
    """Add the gradient of a group, whose first batch is that of ``step``, to that of the mean over
    ``window`` batches."""
    losses = batch_losses(classifier, group, loss)
    for i, found in enumerate(losses):
        _require_finite(found.item(), f"The training loss at step {step + i}")
    (torch.stack(losses).sum() / window).backward()


@torch.no_grad()
def mean_losses(
    classifier: GPTClassifier, loaders: Splits[DataLoader], n_batches: int, loss: Loss
) -> list[float]:
    """The mean training loss and validation loss over the first ``n_batches`` batches, or over all
    if there are fewer."""
    classifier.eval()
    means = []
    for loader in (loaders.train, loaders.validation):
        groups = group_batches(islice(loader, n_batches), classifier)
        losses = [batch_losses(classifier, group, loss) for group in groups]
        numbers = [found.item() for group in losses for found in group]
        means.append(sum(numbers) / len(numbers))
    classifier.train()
    return means


@torch.no_grad()
def classify_texts(
    classifier: GPTClassifier, loader: DataLoader, n_batches: int | None = None
) -> Predictions:
    """Classify the first ``n_batches`` batches, by default all of them, in the loader's order.
    Raises ``TrainingError`` if a logit is not finite."""
    # A few batches need no bar of their own.
    batches = (
        islice(loader, n_batches)
        if n_batches
        else follow(loader, "evaluation", "batches", len(loader), leave=False)
    )
    logits, labels = [], []
    classifier.eval()
    for group in group_batches(batches, classifier):
        merged = merge_batches(group)
        logits.append(classifier(merged).cpu())
        labels.append(merged.labels)
        _require_finite(logits[-1].abs().sum().item(), "A logit of the trained model")
    classifier.train()
    return Predictions(torch.cat(logits), torch.cat(labels))


def _require_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} is {loss}: it is not finite, so the run stops. A smaller --learning_rate "
            "helps against divergence; an --ignore_index that is a class can leave a batch without "
            "any label."
        )
