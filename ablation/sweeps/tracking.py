"""What a run does is shown to a tracker: TensorBoard, Weights & Biases, Trackio or MLflow.

The tracker is in another process (:mod:`ablation.sweeps.trackers`), so it can neither end a run nor
hold it up, and nothing that it prints or sets gets here. What goes wrong with it is a line on
standard error.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ablation.config.commands import format_command
from ablation.config.options import ExperimentConfig, without
from ablation.finetuning.experiment import make_schedule
from ablation.finetuning.metrics import measure_classes
from ablation.finetuning.outcomes import ExperimentResult, History
from ablation.finetuning.training_state import TrainingState
from ablation.sweeps.trackers import CALL_SECONDS, TIMEOUT, environment
from ablation.system.downloads import is_offline
from ablation.system.errors import logger, shorten
from ablation.system.parallel import is_first
from ablation.system.version import PROJECT

FOLDER = "tracking"  # below --output_dir
ENDING_SECONDS = 60.0  # for all that a tracker has left to do when its run has ended
CHILD = (
    f"import sys; sys.path[:] = [{str(PROJECT)!r}, *filter(None, sys.path)]; "
    "from ablation.sweeps.trackers import serve; serve()"
)
OUTCOMES = {
    "running": "The run goes on without it.",
    "complete": "The run is complete all the same.",
    "failed": "The run failed for a reason of its own.",
}
_hung: set[str] = set()  # trackers that are not waited for again


class Tracking:
    """One run, for a tracker; a callback of :func:`train`. Nothing here waits but :meth:`end`.

    Args:
        kind: one of ``TRACKERS``; without one, nothing is tracked.
        folder: of the run, beside which is that of trackers.
    """

    def __init__(self, kind: str | None, folder: Path, config: ExperimentConfig) -> None:
        self._kind, self._config = kind, config
        self._n_losses = self._n_epochs = 0  # that were sent
        self._calls: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._process: subprocess.Popen | None = None
        self._status = "running"
        if not kind or kind in _hung or not is_first():
            return
        place = folder.absolute().parent / FOLDER / kind
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD, kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="replace",
                env=environment(kind, place, is_offline(config.offline)),
                start_new_session=True,  # a signal from the terminal is for the run
            )
            threading.Thread(target=self._write, daemon=True).start()  # a full pipe makes it wait
        except (OSError, RuntimeError) as error:
            self._give_up(str(error))
            return
        options = {name: getattr(config, name) for name in without("circumstance")}
        options["command"] = format_command(config)
        self._calls.put({"name": folder.name, "folder": str(place), "options": options})

    def restore(self, state: TrainingState) -> None:
        """Nothing: what a checkpoint has of the run is sent with what comes next."""

    def after_update(self, state: TrainingState, ends_epoch: bool) -> None:
        """Send what was evaluated."""
        self._send(state.history, state.epoch_ends)

    def note(self, result: ExperimentResult) -> None:
        """Send what is left of a complete run, and its figures."""
        self._status = "complete"
        n_batches = result.accuracy.train.total // self._config.batch_size
        lengths = make_schedule(self._config).epoch_lengths(n_batches)
        self._send(result.history, list(accumulate(lengths)))
        self._calls.put({"status": "complete", "figures": figures_of(result)})

    def end(self, status: str = "complete") -> None:
        """End a run that ended otherwise as ``status`` says, and wait for a tracker to do what is
        left, but not for long; after an interruption it does so alone."""
        if status != "complete":
            self._calls.put({"status": status, "figures": {}})
        self._calls.put(None)
        self._status = status
        if not self._process or status == "interrupted":
            return
        try:
            self._process.wait(ENDING_SECONDS)
            self._look()
        except subprocess.TimeoutExpired:
            self._process.kill()
            _hung.add(self._kind)
            reason = f"it did not finish in {ENDING_SECONDS:g} seconds"
            self._give_up(f"{reason}, so this command starts it no more")

    def _send(self, history: History, epoch_ends: Sequence[int]) -> None:
        """Send what of a history was not sent, in the order of steps."""
        if not self._process:
            return
        calls = [
            {
                "step": loss.step,
                "values": {
                    "train/loss": loss.train,
                    "validation/loss": loss.validation,
                    "epoch": loss.epoch,
                },
            }
            for loss in history.losses[self._n_losses :]
        ]
        pairs = history.epoch_accuracies
        for epoch in range(self._n_epochs, len(pairs)):
            train, validation = pairs[epoch]
            values = {
                "train/accuracy": train.percent,
                "validation/accuracy": validation.percent,
                "epoch": epoch + 1,
            }
            for whole in history.validations[epoch : epoch + 1]:
                values["validation/whole_accuracy"] = whole.accuracy.percent
                values["validation/whole_loss"] = whole.loss
            calls.append({"step": epoch_ends[epoch] - 1, "values": values})
        for call in sorted(calls, key=lambda call: call["step"]):
            self._calls.put(call)
        self._n_losses, self._n_epochs = len(history.losses), len(pairs)
        if calls:
            self._look()

    def _write(self) -> None:
        with suppress(OSError), self._process.stdin as pipe:  # unless the process has ended
            for call in iter(self._calls.get, None):
                pipe.write(json.dumps(call) + "\n")
                pipe.flush()

    def _look(self) -> None:
        """Give up if the process has ended with an error."""
        if self._process and self._process.poll():
            words, status = self._process.stdout.read().strip(), self._process.returncode
            if words.startswith(TIMEOUT):
                words = f"one call took longer than {CALL_SECONDS} seconds"
            names = {-number: f"by {number.name}" for number in signal.Signals}
            self._give_up(
                words or f"its process ended {names.get(status, f'with status {status}')}"
            )

    def _give_up(self, reason: str) -> None:
        self._process = None
        reason = shorten(reason.rstrip(". ")).removesuffix(".")  # of three
        logger.warning("--track %s: %s. %s", self._kind, reason, OUTCOMES[self._status])


@contextmanager
def tracked(kind: str | None, folder: Path, config: ExperimentConfig) -> Iterator[Tracking]:
    """A run, inside, as a tracker is to see it, however it ends."""
    tracking = Tracking(kind, folder, config)
    try:
        yield tracking
    except BaseException as error:
        tracking.end("failed" if isinstance(error, Exception) else "interrupted")
        raise
    tracking.end()


def figures_of(result: ExperimentResult) -> dict[str, float]:
    """The figures of a record by their names, accuracies in percent."""
    test = measure_classes(result.test, result.class_names)
    figures = {
        **{f"final/{part}_accuracy": a.percent for part, a in vars(result.accuracy).items()},
        "final/balanced_accuracy": 100 * test["balanced_accuracy"],
        "final/macro_f1": 100 * test["macro_f1"],
        "final/minutes": (result.seconds["features"] + result.seconds["training"]) / 60,
        "final/peak_memory_gb": result.peak_memory / 1e9,
        "final/trained_parameters": result.n_trained,
    }
    kept = result.history.kept_epoch
    return {**figures, "final/kept_epoch": kept} if kept else figures
