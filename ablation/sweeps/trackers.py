"""A process of its own, which hands the figures of one run to a tracker that it imports.

It reads a line of JSON for each call of a :class:`Tracker`: first how it is made, then what is
logged, and at last how it ends. Whatever a tracker does, prints or breaks happens in this process.
"""

import faulthandler
import importlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

GROUP = "gpt2-ablations"  # what runs are filed under
CALL_SECONDS = 120  # that a tracker may take for one call; then this process ends
TIMEOUT = "Timeout ("  # as faulthandler then says
# What each is told before it is imported; FOLDER is where it writes. All work without a network.
SETTINGS = {
    "tensorboard": {},
    "wandb": {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": GROUP,
        "WANDB_DIR": "FOLDER",
        "WANDB_CACHE_DIR": "FOLDER",
        "WANDB_DATA_DIR": "FOLDER",
        "WANDB_ARTIFACT_DIR": "FOLDER",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
    },
    "trackio": {"TRACKIO_DIR": "FOLDER", "HF_HUB_DISABLE_TELEMETRY": "1"},
    "mlflow": {
        "MLFLOW_TRACKING_URI": "sqlite:///FOLDER/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": GROUP,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    },
}
PREFIXES = ("WANDB_", "TRACKIO_", "MLFLOW_")  # of variables that may send figures elsewhere


def environment(kind: str, folder: Path, is_offline: bool) -> dict[str, str]:
    """The variables of a tracker's process: a user's own come before ours, and say where figures
    go. Where nothing may leave the machine, they are left out."""
    own = {name: value.replace("FOLDER", str(folder)) for name, value in SETTINGS[kind].items()}
    if not is_offline:
        return {**own, **os.environ}
    others = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
    return {**others, **own, "HF_HUB_OFFLINE": "1"}


class Tracker(Protocol):
    """One tracked run. It is made with its name, a folder, and the options of the run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Losses or accuracies after the update of a batch, counted from 0."""

    def end(self, status: str, figures: Mapping[str, float]) -> None:
        """How the run ended, with the figures of its record if it is complete."""


class TensorBoard:
    """Event files in a folder of the run's name; its options and figures are ``hparams``."""

    def __init__(self, name: str, folder: str, options: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for earlier in Path(folder, name).glob("events.out.tfevents.*"):
            earlier.unlink()  # of the same run, which is sent whole again
        self._options = {k: "none" if v is None else v for k, v in options.items()}
        self._writer = SummaryWriter(str(Path(folder, name)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars, at once."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def end(self, status: str, figures: Mapping[str, float]) -> None:
        """Write options and figures beside each other."""
        self._writer.add_text("status", status)
        self._writer.add_hparams(self._options, dict(figures), run_name=".")
        self._writer.close()


class LikeWandb:
    """Weights & Biases, and Trackio, which has the same functions."""

    def __init__(self, module: str, name: str, folder: str, options: Mapping[str, Any]) -> None:
        self._module = importlib.import_module(module)
        self._module.init(
            project=os.environ.get("WANDB_PROJECT", GROUP), name=name, config=dict(options)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step."""
        self._module.log(dict(values), step=step)

    def end(self, status: str, figures: Mapping[str, float]) -> None:
        """Log the figures last, so that they are in the summary."""
        if figures:
            self._module.log(dict(figures))
        is_wandb = self._module.__name__ == "wandb"
        self._module.finish(**{"exit_code": int(status != "complete")} if is_wandb else {})


class MLflow:
    """A database in the folder, or the server that ``MLFLOW_TRACKING_URI`` names."""

    def __init__(self, name: str, folder: str, options: Mapping[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params(options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""
        self._mlflow.log_metrics(values, step=step)

    def end(self, status: str, figures: Mapping[str, float]) -> None:
        """Log the figures, and say how the run ended in MLflow's words."""
        self._mlflow.log_metrics(figures)
        words = {"complete": "FINISHED", "failed": "FAILED"}
        self._mlflow.end_run(words.get(status, "KILLED"))


TRACKERS = {
    "tensorboard": TensorBoard,
    "wandb": partial(LikeWandb, "wandb"),
    "trackio": partial(LikeWandb, "trackio"),
    "mlflow": MLflow,
}


def serve() -> None:
    """Do what the lines on standard input say, and end this process. What goes wrong is a line on
    standard output, on which nothing else is written."""
    # Processes that a tracker starts get neither of the two.
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    status, calls = 0, _read_calls(lines, answer)
    try:
        tracker: Tracker = TRACKERS[sys.argv[1]](**next(calls))
        for call in calls:
            if "status" in call:
                tracker.end(**call)
                break
            tracker.log(**call)
    except BaseException as error:  # whatever it is, the run goes on
        reason = str(error).strip().splitlines() or [""]
        answer.write(": ".join(filter(None, [type(error).__name__, reason[0]]))[:1000])
        status = 1
    answer.flush()
    os._exit(status)  # whatever a tracker has left to do at the end could hang


def _read_calls(lines: Iterable[str], answer: TextIO) -> Iterator[dict[str, Any]]:
    """What is to be called, by line. Who takes longer for it than ``CALL_SECONDS`` is ended, and
    ``TIMEOUT`` begins the answer."""
    for line in lines:
        if not line.endswith("\n"):
            break
        faulthandler.dump_traceback_later(CALL_SECONDS, exit=True, file=answer)
        yield json.loads(line)
        faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(CALL_SECONDS, exit=True, file=answer)
    yield {"status": "killed", "figures": {}}  # who writes has gone
