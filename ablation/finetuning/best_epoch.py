"""The best epoch of a run, by the whole validation part: its weights, and when to stop.

The part is evaluated after each epoch, at the protocol's evaluation. That draws nothing from the
random order of the rest: all that is printed up to the end is what is printed without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ablation.classifier.tensor_files import trained_tensors
from ablation.finetuning.outcomes import History, Validation
from ablation.finetuning.training_state import Schedule, TrainingState
from ablation.system.errors import logger


@contextmanager
def unchanged_generator() -> Iterator[None]:
    """What is drawn inside from PyTorch's global generator is not missing afterwards."""
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def warn_if_inert(schedule: Schedule, n_epochs: int) -> None:
    """Say what of the choices changes nothing in ``n_epochs``, of which ``--max_steps`` may have
    left fewer than were asked for."""
    left = f"--max_steps {schedule.max_steps} ends training in epoch {n_epochs}"
    if schedule.keep_best and n_epochs == 1:
        logger.warning("--keep_best: %s, so there is nothing to choose from", left)
    if schedule.stop_after and schedule.stop_after > n_epochs - 2:
        logger.warning("--stop_after %d: %s, before it could stop", schedule.stop_after, left)


def note_epoch(state: TrainingState, schedule: Schedule, validation: Validation) -> None:
    """Add the evaluation of an epoch that has ended to a state of training, and if it is the best
    so far and its weights may be kept, a copy of them, on the CPU."""
    history = state.history
    history.validations.append(validation)
    is_best = history.best_epoch == len(history.validations)
    if is_best and schedule.keep_best:
        named = trained_tensors(state.model).items()
        state.best = {name: tensor.to("cpu", copy=True) for name, tensor in named}
    logger.info(
        "Epoch %d, whole validation part: accuracy %s, loss %.3f%s",
        *(len(history.validations), validation.accuracy, validation.loss),
        ", the best so far" if is_best else f"; the best is epoch {history.best_epoch}",
    )


def has_stalled(history: History, schedule: Schedule) -> bool:
    """Whether as many epochs as ``stop_after`` have passed since the best."""
    n_since = len(history.validations) - history.best_epoch
    return schedule.stop_after is not None and n_since >= schedule.stop_after


@torch.no_grad()
def end_with_best(state: TrainingState, schedule: Schedule, n_epochs: int) -> None:
    """Give the model the weights of its best epoch, if they are to be kept, and say so, and whether
    training has stopped before all of ``n_epochs``."""
    history = state.history
    n_done, best = len(history.validations), history.best_epoch
    if n_done < n_epochs and has_stalled(history, schedule):
        n = schedule.stop_after
        reason = f"{n} epochs were" if n > 1 else "one epoch was"
        logger.info(
            "Stopped after epoch %d of %d: %s not better than epoch %d on the validation part",
            *(n_done, n_epochs, reason, best),
        )
    if schedule.keep_best:
        for name, tensor in trained_tensors(state.model).items():
            tensor.copy_(state.best[name])
        history.kept_epoch = best
        accuracy = history.validations[best - 1].accuracy
        logger.info(
            "Kept the weights of epoch %d of %d: validation accuracy %s", best, n_done, accuracy
        )
