"""A trained classifier, kept: what was trained, and what else it takes to use it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from classifier import build_classifier
from config_rules import find_problems
from data_utils import WEIGHTS_NAME, Corpus, find_weights
from errors import CheckpointError, ConfigError, DataError
from experiment_config import OPTIONS, ExperimentConfig
from files import checksum_file, parse_json, write_atomically
from gpt_model import GPTModel
from machine import choose_device
from model_sizes import PUBLISHED_WEIGHTS
from runs import CONFIG_NAME
from tensor_files import damaged, fill_trained, read_tensors, trained_tensors, write_tensors

# What a classifier is; the other options say how it was trained.
MODEL_OPTIONS = (
    "model_size",
    "disable_causal_mask",
    "trainable_layers",
    "lora_rank",
    "lora_alpha",
    "trainable_token_pos",
    "average_embeddings",
    "no_padding",
    "demo",
    "precision",
    "seed",
)


@dataclass(frozen=True)
class SavedClassifier:
    """A trained classifier, ready to be used."""

    model: GPTModel
    config: ExperimentConfig
    labels: tuple[str, ...]  # names of the classes, by number
    max_tokens: int  # that texts are cut to, and, if they are padded, padded to


def describe_base(config: ExperimentConfig) -> dict[str, Any]:
    """Which weights training started from, so that the same can be told from others.

    Raises:
        DataError: the weights cannot be had.
    """
    if config.weights == "random":  # which PyTorch draws anew, if it is the same
        version = torch.__version__.partition("+")[0]
        return {"weights": "random", "seed": config.seed, "torch": version}
    path = find_weights(config)
    try:
        checksum = checksum_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Name it with --weights.") from error
    base = {"weights": config.weights, "file_sha256": checksum}
    if config.weights == "pretrained":
        repository, revision = PUBLISHED_WEIGHTS[config.model_size]
        base |= {"repository": repository, "revision": revision}
    return base


def save_classifier(
    folder: Path, model: GPTModel, config: ExperimentConfig, corpus: Corpus, max_tokens: int
) -> None:
    """Write what was trained to ``folder``, and a ``config.json`` that says what it belongs to.

    Raises:
        CheckpointError: it cannot be written.
    """
    # A model that is trained whole rests on no other weights.
    base = None if config.trainable_layers == "all" else describe_base(config)
    content = {
        "options": {name: getattr(config, name) for name in MODEL_OPTIONS},
        "base": base,
        "labels": list(corpus.labels),
        "max_tokens": max_tokens,
        "padding": not config.no_padding,
        "data": {"name": corpus.name, "file_sha256": corpus.file_sha256},
    }
    tensors = trained_tensors(model)
    write_tensors(folder / WEIGHTS_NAME, tensors, {"config_sha256": _checksum(content)})
    try:
        write_atomically(folder / CONFIG_NAME, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise CheckpointError(f"{folder / CONFIG_NAME} cannot be written ({error}).") from error


def load_classifier(folder: Path, given: dict[str, Any]) -> SavedClassifier:
    """Read what :func:`save_classifier` wrote.

    Args:
        given: options of where things are found or done, as ``weights`` or ``device``.

    Raises:
        CheckpointError: it cannot be read, is damaged, or its base weights are others.
        ConfigError: what is given has no sense, or this machine cannot do it.
        DataError: the base weights cannot be had.
    """
    path = folder / CONFIG_NAME
    try:
        content = parse_json(path.read_bytes())
        labels, base = content["labels"], content["base"]
        is_list = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        if not is_list or len(labels) < 2:
            raise ValueError(f"labels {labels!r}")
        weights = str(base["weights"]) if base else "random"
        config = _read_options(content)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: there is no such file. {folder} holds no saved model; train one with "
            "--save_model."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    header, tensors = read_tensors(folder / WEIGHTS_NAME)
    if header.get("config_sha256") != _checksum(content):
        raise damaged(folder / WEIGHTS_NAME, f"it does not belong to {CONFIG_NAME}")
    of_this_machine = {"weights": weights, "precision": content["options"]["precision"], **given}
    config = replace(config, **of_this_machine)
    if problems := find_problems(config):
        raise ConfigError(problems)
    if base:
        _require_same_base(base, describe_base(config), folder)
    model = build_classifier(config, None if base else _empty_model(config), len(labels))
    fill_trained(model, tensors, folder / WEIGHTS_NAME)
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    model = model.eval().to(choose_device(config.device))
    return SavedClassifier(model, config, tuple(labels), config.context_length)


def _read_options(content: dict[str, Any]) -> ExperimentConfig:
    """The configuration that a saved model has, but for what depends on the machine.

    Raises:
        KeyError, TypeError, ValueError: it is not there, or has no sense.
    """
    options = {name: content["options"][name] for name in MODEL_OPTIONS}
    for name, value in options.items():
        kind = type(OPTIONS[name].default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name} is {value!r}")
    options["precision"] = "fp32"
    config = ExperimentConfig(
        weights="random", batch_size=1, context_length=content["max_tokens"], **options
    )
    if problems := find_problems(config):
        raise ValueError(problems[0])
    return config


def _require_same_base(base: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    """Raise :class:`CheckpointError` if weights are not those that training started from."""
    if base.get("file_sha256") != found.get("file_sha256") or base.get("seed") != found.get("seed"):
        raise CheckpointError(
            f"{folder} was trained on other base weights: on {base}, and not on {found}. Name the "
            "right ones with --weights."
        )
    if base.get("torch") != found.get("torch"):
        raise CheckpointError(
            f"{folder} was trained on random weights that PyTorch {base.get('torch')} drew; "
            f"{found.get('torch')} may draw others. Install that version to use it."
        )


def _empty_model(config: ExperimentConfig) -> GPTModel:
    with torch.device("meta"):
        model = GPTModel(config.gpt)
    model.head = torch.nn.Identity()
    return model.to_empty(device="cpu")


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
