"""Checkpoints of a run: enough to continue it as if it had not been stopped.

A checkpoint is one safetensors file: what trained, AdamW's moments and the states of PyTorch's
generator as tensors, all else as JSON in its header. It replaces the one before it only when it
is complete.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablation.classifier.tensor_files import (
    damaged_error,
    fill_trained,
    read_tensors,
    trained_tensors,
    write_tensors,
)
from ablation.config.options import OPTIONS, without
from ablation.finetuning.outcomes import History
from ablation.finetuning.training import TrainingState
from ablation.system.errors import DataError, TensorFileError, logger
from ablation.system.output import print_lines
from ablation.system.parallel import from_first, is_first, tensors_from_first
from ablation.system.signals import DeferredSignals

CHECKPOINT_NAME = "checkpoint.safetensors"
OPTION_DEFAULTS = {name: OPTIONS[name].default for name in without("circumstance")}


class Checkpoints:
    """A callback that writes checkpoints of one run, and brings it back to where the last one was.

    Args:
        path: of the checkpoint; none keeps nothing.
        identity: returns the identity of the run, its data and its weights: only an equal one may
            go on from a checkpoint. It is asked for only when one is read or written.
        every: steps from one checkpoint to the next, or ``EPOCH``; none writes one only when
            the run is asked to stop.
        features: seconds that this process spent on hidden states.
        stored: that those which it found had taken.
    """

    def __init__(
        self,
        path: Path | None,
        identity: Callable[[], dict[str, Any]],
        every: int | str | None,
        resume: bool,
        features: float,
        stored: float,
        signals: DeferredSignals,
    ) -> None:
        self._path, self._every, self._resume, self._signals = path, every, resume, signals
        self._identify = functools.cache(identity)
        self._features, self._stored = features, stored
        self._training = 0.0  # seconds before this process
        self._started = time.perf_counter()
        self._saved_step = 0
        self._state: TrainingState | None = None  # after the last update
        self._generator: Tensor | None = None  # PyTorch's, then

    @property
    def seconds(self) -> dict[str, float]:
        """What hidden states and training have taken, in this process and those before it."""
        training = self._training + time.perf_counter() - self._started
        return {"features": self._features, "training": training, "stored": self._stored}

    def restore(self, state: TrainingState) -> None:
        """Continue from the checkpoint, if there is one and it is asked for, and print the lines
        that were printed before it.

        Raises:
            TensorFileError: it is damaged, or belongs to another run.
            DataError: what the run rests on cannot be read.
            Interrupted: the run is asked to stop.
        """
        self._started = time.perf_counter()
        if self._path and (self._every or self._resume):
            self._identify()  # now, while all that it is made of is there
        header, tensors = None, {}
        if is_first() and self._resume and self._path and self._path.exists():
            header, tensors = read_tensors(self._path)
        # Of several processes the first has the file; it need not be where the others are.
        header, tensors = from_first(header), tensors_from_first(tensors)
        if header is None:
            return
        try:
            identity = _complete(header["identity"])
            if identity != self._identify():
                raise TensorFileError(
                    f"{self._path} belongs to a run on other data, weights or versions. Delete it "
                    "to start anew; a single run does so without --resume, too."
                )
            state.history = History.from_json(header["history"])
            state.best = _below("best", tensors)
            if identity["options"]["keep_best"] and state.history.validations:
                fill_trained(state.model, state.best, self._path)  # they fit
            fill_trained(state.model, _below("model", tensors), self._path)
            state.optimizer.restore(_below("moments", tensors))
            state.step = header["step"]
            state.epoch_generator = tensors["generators.epoch"]
            torch.set_rng_state(tensors["generators.now"])
            # What was in a store then may have been computed since, and the other way round.
            self._stored = max(0.0, header["seconds"].get("stored", 0.0) - self._features)
            self._features += header["seconds"]["features"]
            self._training = header["seconds"]["training"]
            lines = state.history.lines()
        except TensorFileError:
            raise
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise damaged_error(self._path, error) from error
        self._note(state)
        self._saved_step = state.step
        logger.info("Continuing after step %d, from %s", state.step, self._path)
        for line in lines:
            print_lines(line)
        self._signals.raise_if_stopped()

    def after_update(self, state: TrainingState, ends_epoch: bool) -> None:
        """Write a checkpoint if one is due, or if the run is asked to stop, and stop then. Raises
        ``Interrupted`` if the run is asked to stop."""
        self._note(state)
        is_due = bool(self._every) and ends_epoch
        if isinstance(self._every, int):
            is_due = state.step - self._saved_step >= self._every
        if is_due:
            self.save()
        self._signals.raise_if_stopped(before=self.save)

    def end_training(self) -> None:
        """Write a checkpoint of what training came to, if any are to be written. Raises
        ``Interrupted`` if the run is asked to stop."""
        if self._every:
            self.save()
        self._signals.raise_if_stopped(before=self.save)

    def save(self) -> None:
        """Write a checkpoint of the state after the last update, if there is none yet."""
        state = self._state
        if not is_first() or not self._path or not state or state.step == self._saved_step:
            return
        try:
            header = {
                "identity": self._identify(),
                "step": state.step,
                "history": state.history.to_json(),
                "seconds": self.seconds,
            }
            groups = {
                "model": trained_tensors(state.model),
                "moments": state.optimizer.moments(),
                "best": state.best,
                "generators": {"epoch": state.epoch_generator, "now": self._generator},
            }
            tensors = {
                f"{group}.{name}": tensor
                for group, named in groups.items()
                for name, tensor in named.items()
            }
            write_tensors(self._path, tensors, header)
            self._saved_step = state.step
        except (TensorFileError, DataError) as error:  # the run is worth more than that
            logger.warning("No checkpoint: %s", error)

    def _note(self, state: TrainingState) -> None:
        self._state, self._generator = state, torch.get_rng_state()


def _complete(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity in a checkpoint, with the options that were added to the project since."""
    return {**identity, "options": {**OPTION_DEFAULTS, **identity["options"]}}


def _below(group: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{group}."
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
