"""What a run is known by: its options, the data and the weights that it rests on, and the program.

Records, checkpoints, kept models, shared states and Ray all compare these, and nothing else.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ablation.config.options import (
    OPTIONS,
    ExperimentConfig,
    changed_options,
    read_fold,
    tagged,
    without,
)
from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.system.errors import DataError
from ablation.system.files import checksum_file
from ablation.system.version import PROJECT, code_files, package_versions, version

SETTLED_SECONDS = 2.0  # after a change, in which a second one might not show in the file's times
# The code that makes hidden states, as it was when this program began.
COMPUTING = (
    *("gpt_model.py", "ablation/classifier/build.py", "ablation/classifier/published_weights.py"),
    *("ablation/finetuning/frozen_features.py", "ablation/finetuning/text_states.py"),
    *("ablation/classifier/tensor_files.py", "ablation/system/products.py"),
)
COMPUTING_CODE = [checksum_file(PROJECT / name) for name in COMPUTING]

_checksums: dict[tuple[int, ...], str] = {}  # of files as they were, for the length of a process


def identify(config: ExperimentConfig) -> str:
    """The hash at the end of a run's folder: of its seed and flags, without their circumstances.

    Only what differs from its default counts, so that a flag that is added to the project
    leaves the runs before it what they are.
    """
    return checksum_json([*chosen_options(config).items(), ("seed", config.seed)])[:10]


def identify_experiment(config: ExperimentConfig) -> str:
    """The same for runs that differ in nothing but their seed, fold and circumstances."""
    return identify(replace(config, **{name: OPTIONS[name].default for name in tagged("repeat")}))


def chosen_options(config: ExperimentConfig) -> dict[str, Any]:
    """The options that differ from their defaults and make it another experiment."""
    changed = changed_options(config)
    return {
        # 16 and 16.0 are one choice.
        name: float(changed[name]) if isinstance(OPTIONS[name].default, float) else changed[name]
        for name in without("circumstance")
        if name in changed and name != "seed"
    }


def identify_checkpoint(
    config: ExperimentConfig, corpus: Any, weights: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint belongs to: equal for runs that would go the same way from it.

    Args:
        corpus: a :class:`data_utils.Corpus`.
        weights: as :func:`identify_weights` has them.
    """
    options = {name: getattr(config, name) for name in without("circumstance")}
    return {"options": options, "data": identify_data(corpus), "base": weights}


def identify_data(corpus: Any) -> dict[str, Any]:
    """What a run was made on: runs on other data do not compare.

    ``split_sha256`` is of the texts and labels of all parts, in order, so that another split has
    another.

    Args:
        corpus: a :class:`data_utils.Corpus`.
    """
    parts = vars(corpus.parts).values()
    texts = "\n".join(part[["Label", "Text"]].to_json(orient="values") for part in parts)
    return {
        "name": corpus.name,
        "file_sha256": corpus.file_sha256,
        "split_sha256": hashlib.sha256(texts.encode()).hexdigest(),
    }


def identify_tests(config: ExperimentConfig, data: dict[str, Any]) -> dict[str, Any]:
    """What runs that belong in one table were tested on: their data; of texts of one's own, the
    file, how test rows are taken from it, and how many folds there are.

    Args:
        data: as :func:`identify_data` has it.
    """
    if not config.dataset:
        return data
    apart = tagged("local", "repeat", "same_test")  # files have their checksum
    return {
        "name": data["name"],
        "file_sha256": data["file_sha256"],
        **{name: getattr(config, name) for name in tagged("dataset") if name not in apart},
        "folds": read_fold(config.fold)[1] if config.fold else 1,
    }


def corpus_of(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for experiments of one table that have the same texts in each part; sorts by fold."""
    fold = read_fold(config.fold)[0] if config.fold else 0
    return (fold, *(getattr(config, name) for name in tagged("same_test")))


def identify_weights(
    config: ExperimentConfig, find: Callable[[ExperimentConfig], Path]
) -> dict[str, Any]:
    """What training starts from: equal for runs that start from equal weights.

    ``weights`` is what the flag says. A file has its ``file_sha256``, and published weights also
    ``repository`` and ``revision``; random ones have what makes them, ``seed`` and ``torch``.
    Raises ``DataError`` if that file cannot be read, or whatever ``find`` raises.

    Args:
        find: gives the file of ``--weights PATH``.
    """
    if config.weights == "random":
        torch = version("torch").partition("+")[0]
        return {"weights": "random", "seed": config.seed, "torch": torch}
    if config.weights == "pretrained":  # no other file is ever used
        published = PUBLISHED_WEIGHTS[config.model_size]
        return {
            "weights": "pretrained",
            "file_sha256": published.sha256,
            "repository": published.repository,
            "revision": published.revision,
        }
    path = find(config)
    try:
        return {"weights": config.weights, "file_sha256": checksum_weights(path)}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Name it with --weights.") from error


def identify_states(
    config: ExperimentConfig, base: dict[str, Any], bits: list[list[int]], device: str
) -> dict[str, Any]:
    """What hidden states follow from, besides the texts: equal for equal states.

    Args:
        base: what the model starts from, as :func:`identify_weights` has it.
        bits: a hash of each parameter of the embeddings, and of the blocks that they passed.
        device: the kind of device that computes them.
    """
    weights = base.get("file_sha256") or base  # wherever the file is
    return {
        "weights": weights,
        "bits": bits,
        "model": asdict(replace(config.gpt, causal=not config.disable_causal_mask)),
        "precision": config.precision,
        "device": device,
        "torch": version("torch"),
        "code": COMPUTING_CODE,
    }


def start_of(config: ExperimentConfig) -> tuple[Any, ...]:
    """Equal for experiments of one process that start from the same weights."""
    return (config.model_size, config.weights, config.seed if config.weights == "random" else -1)


def identify_program() -> dict[str, str]:
    """Versions of Python and packages, and a checksum of this code."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in code_files())).hexdigest()
    return {**package_versions(), "code": code}


def checksum_json(content: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum_weights(path: Path) -> str:
    """SHA-256 of a file, computed once in a process for as long as nobody changes the file. Raises
    ``OSError`` if it cannot be read."""
    status = path.stat()
    as_it_is = (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
    if as_it_is in _checksums:
        return _checksums[as_it_is]
    checksum = checksum_file(path)
    if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
        _checksums[as_it_is] = checksum
    return checksum
