"""The record that every run leaves: a folder with ``result.json`` and ``predictions.csv``.

The folder's name says what was run, and ends with a hash of it, so that the same run has the same
folder. ``result.json`` is written last and names the checksum of the predictions: a record that
was cut off, or mixed from two, is found out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ablation.config.identity import identify
from ablation.config.options import OPTIONS, ExperimentConfig
from ablation.config.rows import format_command, row_number
from ablation.config.runs import RESULT_NAME, Run
from ablation.data.own_data import checksum_files
from ablation.finetuning.metrics import format_metrics, measure_classes
from ablation.finetuning.outcomes import (
    Accuracy,
    ExperimentResult,
    History,
    Predictions,
    format_accuracies,
    format_minutes,
)
from ablation.sweeps.record_schema import COLUMNS, check_predictions, check_result
from ablation.sweeps.record_weights import is_outdated
from ablation.system.errors import RecordError
from ablation.system.files import parse_json, write_atomically
from ablation.system.version import read_commit
from data_utils import PARTS, Splits

logger = logging.getLogger("experiments")

PREDICTIONS_NAME = "predictions.csv"
NEXT_PREDICTIONS_NAME = "predictions.csv.next"  # for a moment
MAX_RESULT_BYTES = 2**28
MAX_LINE_BYTES = 1_000  # of the predictions


@dataclass(frozen=True)
class Record:
    """What a run left. ``result`` is its ``result.json``.

    ``predictions`` has a line for each test message, with the columns ``index``, ``label``,
    ``probability`` (of spam, or of the second of two classes; with more classes, of the predicted
    one), ``prediction`` and ``row`` (the line of its file, which earlier records lack); it is none
    for a failed run.
    """

    folder: Path
    result: dict[str, Any]
    predictions: pd.DataFrame | None

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end; otherwise it failed."""
        return self.result["status"] == "complete"

    @cached_property
    def config(self) -> ExperimentConfig:
        """The experiment."""
        return ExperimentConfig(**self.result["flags"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def minutes(self) -> float:
        """What "Training completed in" said."""
        return (self.result["seconds"]["features"] + self.result["seconds"]["training"]) / 60

    @property
    def correct(self) -> np.ndarray:
        """Whether each test message (M,) was classified correctly."""
        return (self.predictions["label"] == self.predictions["prediction"]).to_numpy()

    @property
    def kept(self) -> dict[str, str]:
        """The SHA-256 of what was kept of the model: of ``model``, of its ``export``."""
        return self.result.get("kept", {})

    @property
    def made(self) -> float:
        """When it was written, in seconds since 1970."""
        return (self.folder / RESULT_NAME).stat().st_mtime

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the file of weights that it started from; none for random ones, and for
        records of an early version."""
        return self.result.get("weights", {}).get("file_sha256")

    @property
    def lines(self) -> list[str]:
        """What the run printed."""
        history = History.from_json(self.result["history"])
        accuracy = Splits(*PARTS).map(self.accuracy)
        lines = [*history.lines(), format_minutes(self.result["seconds"])]
        lines += format_accuracies(accuracy)
        return [*lines, format_metrics(self.result["test"])] if self.config.dataset else lines

    def accuracy(self, part: str) -> Accuracy:
        """The accuracy on a part of the data."""
        return Accuracy.from_json(self.result["accuracy"][part])


# ---------------------------------------------------------------- writing


def write_complete(
    output_dir: Path, run: Run, result: ExperimentResult, data: dict[str, Any]
) -> Path:
    """Write the record of a run that came to its end, in place of an earlier one.

    Args:
        data: what it was trained on, as :func:`identity.identify_data` has it.

    Returns:
        Its folder.

    Raises:
        RecordError: it cannot be written.
    """
    predictions = _predictions_csv(result.test, result.test_lines)
    content = {
        **_describe(run, "complete", result.machine),
        "data": data,
        # On a cluster's nodes, another path may lead to it.
        "weights": {**result.weights, "weights": run.config.weights},
        "parameters": {"trained": result.n_trained, "total": result.n_parameters},
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "accuracy": {part: asdict(getattr(result.accuracy, part)) for part in PARTS},
        "test": measure_classes(result.test, result.class_names),
        "history": asdict(result.history),
        "predictions_sha256": hashlib.sha256(predictions).hexdigest(),
        "kept": result.kept,
        "not_kept": result.not_kept,
    }
    return _write(output_dir, run, content, predictions)


def write_incomplete(
    output_dir: Path,
    run: Run,
    status: str,
    error: str,
    machine: Mapping[str, Any] | None = None,
) -> None:
    """Write the record of a run that failed or was interrupted; an earlier, complete one is kept.

    Args:
        status: ``failed`` or ``interrupted``.
        machine: what it ran on, as :func:`machine.describe_machine` has it, if that is known.

    Raises:
        RecordError: it cannot be written.
    """
    if not find_complete(output_dir, run):
        _write(output_dir, run, {**_describe(run, status, machine or {}), "error": error})


def require_writable(output_dir: Path) -> None:
    """Raise :class:`RecordError` if records cannot be written to a folder, before any work."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(output_dir / ".writable", b"")
        (output_dir / ".writable").unlink(missing_ok=True)
    except OSError as error:
        raise RecordError(
            f"--output_dir {output_dir}: records cannot be written there ({error}). Choose "
            "another folder."
        ) from error


def _describe(run: Run, status: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": status,
        "row": row_number(run.config),
        "seed": run.config.seed,
        "command": format_command(run.config),
        "flags": {
            # Folders say something of a machine, and nothing of a run.
            name: OPTIONS[name].default if name.endswith("_dir") else value
            for name, value in asdict(run.config).items()
        },
        "overrides": run.overrides,
        **machine,
        "commit": read_commit(),
    }


def _predictions_csv(test: Predictions, lines: Sequence[int]) -> bytes:
    probabilities = torch.softmax(test.logits.double(), dim=-1)  # (N, C)
    is_binary = probabilities.shape[1] == 2
    table = pd.DataFrame(
        {
            "index": range(len(test.labels)),
            "label": test.labels.numpy(),
            "probability": probabilities[:, 1] if is_binary else probabilities.amax(dim=1),
            "prediction": test.classes.numpy(),
            "row": lines,
        }
    )
    return table.to_csv(index=False, float_format="%.9g", lineterminator="\n").encode()


def _write(output_dir: Path, run: Run, content: dict[str, Any], predictions: bytes = b"") -> Path:
    folder = run.folder(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Until the new result is there, the old predictions belong to the old one.
        if predictions:
            write_atomically(folder / NEXT_PREDICTIONS_NAME, predictions)
        write_atomically(folder / RESULT_NAME, json.dumps(content, indent=1).encode())
        if predictions:
            with contextlib.suppress(FileNotFoundError):  # the same run beside this one did it
                (folder / NEXT_PREDICTIONS_NAME).replace(folder / PREDICTIONS_NAME)
    except OSError as error:
        raise RecordError(
            f"The record {folder} cannot be written ({error}). Make room, or choose another "
            "--output_dir."
        ) from error
    return folder


# ---------------------------------------------------------------- reading


def read_records(output_dir: Path) -> list[Record]:
    """All records below a folder, complete or failed; damaged ones are named and skipped, and so
    are second ones of the same run."""
    records: dict[str, Record] = {}
    for path in sorted(output_dir.glob(f"*/{RESULT_NAME}")):
        try:
            record = read_record(path.parent)
        except RecordError as error:
            logger.warning("Skipped: %s", error)
            continue
        first = records.setdefault(identify(record.config), record)
        if first is not record:
            logger.warning("Skipped: %s is the same run as %s", record.folder, first.folder)
    return list(records.values())


def find_complete(output_dir: Path, run: Run) -> Record | None:
    """The record of a run that came to its end on these data, from these weights; a damaged one
    is named, and none.

    Raises:
        DataError: the data or the weights cannot be read.
    """
    found = (_complete_in(folder, run) for folder in run.folders(output_dir))
    return next((record for record in found if record), None)


def _complete_in(folder: Path, run: Run) -> Record | None:
    if not (folder / RESULT_NAME).exists():
        return None
    try:
        record = read_record(folder)
    except RecordError as error:
        logger.warning("Not done: %s", error)
        return None
    if not record.is_complete or identify(record.config) != identify(run.config):
        return None
    if run.config.dataset and record.result["data"]["file_sha256"] != checksum_files(run.config):
        logger.warning("Not done: the texts have changed since %s was made", folder)
        return None
    if is_outdated(record):
        weights = run.config.weights
        logger.warning("Not done: --weights %s has changed since %s was made", weights, folder)
        return None
    return record


def read_record(folder: Path) -> Record:
    """Read one record.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    try:
        result = parse_json(_read(folder / RESULT_NAME, MAX_RESULT_BYTES))
        check_result(result)
        record = Record(folder, result, None)
        if not record.is_complete:
            return record
        content = _read_predictions(folder, result)
        predictions = pd.read_csv(io.BytesIO(content), dtype=COLUMNS)
        check_predictions(predictions, result)
        return replace(record, predictions=predictions)
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename}: there is no such file") from error
    except (OSError, ValueError, OverflowError) as error:
        raise RecordError(
            f"the record {folder} is damaged ({error}); run it again, or delete it"
        ) from error


def _read_predictions(folder: Path, result: dict[str, Any]) -> bytes:
    """The predictions that belong to a result, also if a kill left them under their first name."""
    limit = MAX_LINE_BYTES * (1 + result["accuracy"]["test"]["total"])
    for name in (PREDICTIONS_NAME, NEXT_PREDICTIONS_NAME):
        if (folder / name).exists():
            content = _read(folder / name, limit)
            if hashlib.sha256(content).hexdigest() == result["predictions_sha256"]:
                return content
    if not (folder / PREDICTIONS_NAME).exists():
        raise FileNotFoundError(errno.ENOENT, "", str(folder / PREDICTIONS_NAME))
    raise ValueError(f"{PREDICTIONS_NAME} is not the one that belongs to it")


def _read(path: Path, limit: int) -> bytes:
    """What a file holds that is no longer than ``limit``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is longer, or no file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no file")
    if status.st_size > limit:
        raise ValueError(f"{path.name} has {status.st_size:,} bytes, more than it can need")
    return path.read_bytes()
