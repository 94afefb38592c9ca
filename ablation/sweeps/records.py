"""The record that every run leaves: a folder with ``result.json`` and ``predictions.csv``.

The folder's name says what was run, and ends with a hash of it, so that the same run has the same
folder. ``result.json`` is written last and names the checksum of the predictions, so a record that
was cut off, or mixed from two, is noticed.
"""

import contextlib
import hashlib
import io
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ablation.classifier.weight_files import find_weights
from ablation.config.commands import format_command
from ablation.config.identity import identify, identify_weights
from ablation.config.options import OPTIONS, ExperimentConfig
from ablation.config.rows import SOURCE
from ablation.config.runs import RESULT_NAME, Run
from ablation.data.own_data import checksum_files
from ablation.finetuning import outcomes
from ablation.finetuning.metrics import format_metrics, measure_classes
from ablation.sweeps.record_schema import COLUMNS, check_predictions, check_result
from ablation.system.errors import RecordError, logger
from ablation.system.files import checksum_file, parse_json, replacing, write_atomically
from ablation.system.version import read_commit
from data_utils import PARTS, Splits

PREDICTIONS_NAME = "predictions.csv"
NEXT_PREDICTIONS_NAME = "predictions.csv.next"  # for a moment
FOLDERS = ("data_dir", "weights_dir", "feature_store")
MAX_RESULT_BYTES = 2**28
MAX_LINE_BYTES = 1_000  # of the predictions


@dataclass(frozen=True)
class Record:
    """What a run left. ``result`` is its ``result.json``.

    ``predictions`` has a line for each test message, with the columns ``index``, ``label``,
    ``probability`` (of spam, or of the second of two classes; with more classes, of the predicted
    one), ``prediction`` and ``row`` (the line of its file, which earlier records lack). A failed
    run has none.
    """

    folder: Path
    result: dict[str, Any]
    predictions: pd.DataFrame | None

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end; otherwise it failed or was interrupted."""
        return self.result["status"] == "complete"

    @cached_property
    def config(self) -> ExperimentConfig:
        """The experiment."""
        return ExperimentConfig(**self.result["flags"])

    @property
    def minutes(self) -> float:
        """What hidden states and training took, also those that were found in a store: so it is
        the same for runs that find them and runs that compute them."""
        seconds = self.result["seconds"]
        return (seconds["features"] + seconds.get("stored", 0) + seconds["training"]) / 60

    @property
    def correct(self) -> np.ndarray:
        """Whether each test message (M,) was classified correctly."""
        return (self.predictions["label"] == self.predictions["prediction"]).to_numpy()

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the file of weights that it started from; none for random ones, and for
        records of an early version."""
        return self.result.get("weights", {}).get("file_sha256")

    @property
    def lines(self) -> list[str]:
        """What the run printed."""
        lines = outcomes.History.from_json(self.result["history"]).lines()
        lines.append(outcomes.format_minutes(self.result["seconds"]))
        lines += outcomes.format_accuracies(Splits(*PARTS).map(self.accuracy))
        return [*lines, format_metrics(self.result["test"])] if self.config.dataset else lines

    def accuracy(self, part: str) -> outcomes.Accuracy:
        """The accuracy on a part of the data."""
        return outcomes.Accuracy.from_json(self.result["accuracy"][part])


def write_complete(
    output_dir: Path, run: Run, result: outcomes.ExperimentResult, data: dict[str, Any]
) -> Path:
    """Write the record of a complete run, in place of an earlier one. Returns its folder.

    ``data`` is what it was trained on, as :func:`identity.identify_data` has it. Raises
    ``RecordError`` if it cannot be written.
    """
    probabilities = torch.softmax(result.test.logits.double(), dim=-1)  # (N, C)
    is_binary = probabilities.shape[1] == 2
    table = pd.DataFrame(
        {
            "index": range(len(probabilities)),
            "label": result.test.labels.numpy(),
            "probability": probabilities[:, 1] if is_binary else probabilities.amax(dim=1),
            "prediction": result.test.classes.numpy(),
            "row": result.test_lines,
        }
    )
    content = {
        **_describe(run, "complete", result.machine),
        "data": data,
        # On a cluster's nodes, another path may lead to it.
        "weights": {**result.weights, "weights": run.config.weights},
        "parameters": {"trained": result.n_trained, "total": result.n_parameters},
        "seconds": result.seconds,
        "states": result.n_states,
        "peak_memory_bytes": result.peak_memory,
        "accuracy": {part: asdict(getattr(result.accuracy, part)) for part in PARTS},
        "test": measure_classes(result.test, result.class_names),
        "history": result.history.to_json(),
        "predictions_sha256": "",  # once they are written
        "kept": result.kept,
        "not_kept": result.not_kept,
    }
    return _write(output_dir, run, content, table)


def write_incomplete(
    output_dir: Path, run: Run, status: str, error: str, machine: Mapping[str, Any] | None = None
) -> None:
    """Write the record of a run that ``failed`` or was ``interrupted``, its ``status``. An earlier,
    complete one is kept. ``machine`` is what it ran on, if that is known, as ``describe_machine``
    has it. Raises ``RecordError`` if it cannot be written."""
    if not find_complete(output_dir, run):
        _write(output_dir, run, {**_describe(run, status, machine or {}), "error": error})


def require_writable(output_dir: Path) -> None:
    """Raise :class:`RecordError` if records cannot be written to a folder, before any work."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(output_dir / ".writable", b"")
        (output_dir / ".writable").unlink(missing_ok=True)
    except OSError as error:
        problem = f"--output_dir {output_dir}: records cannot be written there ({error})"
        raise RecordError(f"{problem}. Choose another folder.") from error


def _describe(run: Run, status: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": status,
        "row": run.row,
        **({} if run.table == SOURCE else {"table": run.table.title}),
        "seed": run.config.seed,
        "command": format_command(run.config),
        "flags": {
            # Folders say something of a machine, and nothing of a run.
            name: OPTIONS[name].default if name in FOLDERS else value
            for name, value in asdict(run.config).items()
        },
        "overrides": run.overrides,
        **machine,
        "commit": read_commit(),
    }


def _write(
    output_dir: Path, run: Run, content: dict[str, Any], predictions: pd.DataFrame | None = None
) -> Path:
    folder = run.folder(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Until the new result is there, the old predictions belong to the old one.
        if predictions is not None:
            with replacing(folder / NEXT_PREDICTIONS_NAME) as path:
                predictions.to_csv(path, index=False, float_format="%.9g", lineterminator="\n")
                content["predictions_sha256"] = checksum_file(path)
        write_atomically(folder / RESULT_NAME, json.dumps(content, indent=1).encode())
        if predictions is not None:
            with contextlib.suppress(FileNotFoundError):  # the same run beside this one did it
                (folder / NEXT_PREDICTIONS_NAME).replace(folder / PREDICTIONS_NAME)
    except OSError as error:
        problem = f"The record {folder} cannot be written ({error})"
        raise RecordError(f"{problem}. Make room, or choose another --output_dir.") from error
    return folder


def read_records(output_dir: Path) -> list[Record]:
    """All records below a folder, complete or failed. Damaged ones are named and skipped, and so
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
    """The complete record of a run on these data, from these weights. One that is damaged or out
    of date is named, and left aside. Raises ``DataError`` if data or weights cannot be read."""
    for folder in run.folders(output_dir):
        try:
            record = read_record(folder) if (folder / RESULT_NAME).exists() else None
        except RecordError as error:
            logger.warning("Not done: %s", error)
            continue
        if not record or not record.is_complete or identify(record.config) != identify(run.config):
            continue
        data = run.config.dataset and record.result["data"]["file_sha256"]
        if data and data != checksum_files(run.config):
            logger.warning("Not done: the texts have changed since %s was made", folder)
        elif weights_have_changed(record):
            weights = run.config.weights
            logger.warning("Not done: --weights %s has changed since %s was made", weights, folder)
        else:
            return record
    return None


def read_record(folder: Path) -> Record:
    """Read one record. Raises ``RecordError`` if there is none, or it is damaged."""
    try:
        result = parse_json(_read(folder / RESULT_NAME, MAX_RESULT_BYTES))
        check_result(result)
        predictions = None
        if result["status"] == "complete":
            content = _read_predictions(folder, result)
            predictions = pd.read_csv(io.BytesIO(content), dtype=COLUMNS)
            check_predictions(predictions, result)
        return Record(folder, result, predictions)
    except FileNotFoundError as error:
        raise RecordError(f"{error.filename}: there is no such file") from error
    except (OSError, ValueError, OverflowError) as error:
        problem = f"the record {folder} is damaged ({error})"
        raise RecordError(f"{problem}; run it again, or delete it") from error


def _read_predictions(folder: Path, result: dict[str, Any]) -> bytes:
    """The predictions that belong to a result, also if a kill left them under their first name."""
    limit = MAX_LINE_BYTES * (1 + result["accuracy"]["test"]["total"])
    for path in (folder / PREDICTIONS_NAME, folder / NEXT_PREDICTIONS_NAME):
        if path.exists():
            content = _read(path, limit)
            if hashlib.sha256(content).hexdigest() == result["predictions_sha256"]:
                return content
    (folder / PREDICTIONS_NAME).stat()  # says so if it is missing
    raise ValueError(f"{PREDICTIONS_NAME} is not the one that belongs to it")


def _read(path: Path, limit: int) -> bytes:
    """A file's bytes. Raises ``ValueError`` if there are more than ``limit``, or it is not one."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is not a regular file")
    if status.st_size > limit:
        raise ValueError(f"{path.name} has {status.st_size:,} bytes, more than it can need")
    return path.read_bytes()


def weights_have_changed(record: Record) -> bool:
    """Whether ``--weights PATH`` is by now another file than the one that a run started from.

    Early records do not say which that was, so a file newer than the record counts as another.
    A file that is not here, but on the nodes of a cluster, may still be the same. Raises
    ``DataError`` if the file cannot be read, or is not a GPT-2.
    """
    weights = record.config.weights
    if weights in ("pretrained", "random") or not os.path.exists(weights):
        return False
    if record.weights_sha256:
        return record.weights_sha256 != identify_weights(record.config, find_weights)["file_sha256"]
    made = (record.folder / RESULT_NAME).stat().st_mtime
    return find_weights(record.config).stat().st_mtime > made


def require_one_base(records: Sequence[Record]) -> None:
    """Raise ``RecordError`` if records give one name to different files of weights."""
    first: dict[str, Record] = {}
    for record in records:
        weights, checksum = record.config.weights, record.weights_sha256
        other = first.setdefault(weights, record) if checksum else record
        if other.weights_sha256 != checksum:
            raise RecordError(
                f"{other.folder} and {record.folder} both started from --weights {weights}, but "
                f"not from the same file: SHA-256 {other.weights_sha256} and {checksum}. So they "
                "do not belong together. Run again the one whose file is gone, or give each file "
                "a name of its own, and its runs another --output_dir."
            )
    for record in records:
        if not record.weights_sha256 and (other := first.get(record.config.weights)):
            logger.warning(
                "%s does not say which file --weights %s was: maybe not that of %s",
                *(record.folder, record.config.weights, other.folder),
            )
