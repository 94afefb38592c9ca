"""A trained classifier, kept: what was trained, and what else it takes to use it."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ablation.classifier.build import GPTClassifier, build_classifier
from ablation.classifier.tensor_files import (
    damaged_error,
    fill_trained,
    read_tensors,
    trained_tensors,
    write_tensors,
)
from ablation.classifier.weight_files import WEIGHTS_NAME, find_weights
from ablation.config.identity import checksum_json, identify_weights
from ablation.config.options import OPTIONS, ExperimentConfig, tagged
from ablation.config.rules import config_problems
from ablation.config.runs import CONFIG_NAME
from ablation.system.errors import ConfigError, TensorFileError
from ablation.system.files import parse_json, write_atomically
from ablation.system.machine import choose_device, set_precision, shapes_only
from data_utils import Corpus
from gpt_model import GPTModel

SHOWN_RUNS = 5  # with a model, in a message


@dataclass(frozen=True)
class SavedClassifier:
    """A trained classifier, ready to be used."""

    model: GPTClassifier
    config: ExperimentConfig
    class_names: tuple[str, ...]  # by number
    max_tokens: int  # that texts are cut to, and, if they are padded, padded to
    text_column: str = OPTIONS["text_column"].default  # as --text_column has it
    data_sha256: str | None = None  # of the file that it was trained on


def save_classifier(
    folder: Path,
    model: GPTModel,
    config: ExperimentConfig,
    base: dict[str, Any],
    corpus: Corpus,
    max_tokens: int,
) -> None:
    """Write what was trained to ``folder``, and a ``config.json`` that says what it belongs to.
    Raises ``TensorFileError`` if it cannot be written.

    Args:
        base: what training started from, as :func:`identity.identify_weights` has it.
    """
    if _is_whole(config):
        base = None
    elif "file_sha256" in base and config.weights != "pretrained":
        base = {**base, "path": str(Path(config.weights).absolute())}  # found from any folder
    content = {
        "options": {name: getattr(config, name) for name in tagged("model")},
        "base": base,
        "labels": list(corpus.class_names),
        "max_tokens": max_tokens,
        "padding": not config.no_padding,
        "data": {
            **{"name": corpus.name, "file_sha256": corpus.file_sha256},
            "text_column": config.text_column,
        },
    }
    tensors = trained_tensors(model)
    write_tensors(folder / WEIGHTS_NAME, tensors, {"config_sha256": checksum_json(content)})
    try:
        write_atomically(folder / CONFIG_NAME, json.dumps(content, indent=1).encode())
    except OSError as error:
        raise TensorFileError(f"{folder / CONFIG_NAME} cannot be written ({error}).") from error


def load_classifier(folder: Path, given: dict[str, Any]) -> SavedClassifier:
    """Read what :func:`save_classifier` wrote.

    Args:
        given: options of where things are found or done, as ``weights`` or ``device``.

    Raises:
        TensorFileError: it cannot be read, is damaged, or its base weights are others.
        ConfigError: what is given is wrong, or this machine cannot do it.
        DataError: the base weights are missing.
    """
    saved = _read_config(folder)
    config, labels, base, content = saved.config, saved.labels, saved.base, saved.content
    weights = given.get("weights") or (_locate_base(base, folder) if base else "random")
    header, tensors = read_tensors(folder / WEIGHTS_NAME)
    if header.get("config_sha256") != checksum_json(content):
        raise damaged_error(folder / WEIGHTS_NAME, f"it does not belong to {CONFIG_NAME}")
    of_this_machine = {"precision": content["options"]["precision"], **given, "weights": weights}
    config = replace(config, **of_this_machine)
    if problems := config_problems(config):
        raise ConfigError(problems)
    start = None  # loads what training started from
    if base:
        _require_same_base(base, identify_weights(config, find_weights), folder)
    else:
        with shapes_only():
            start = GPTModel(config.gpt)
        start.head = torch.nn.Identity()
        start.to_empty(device="cpu")
    model = build_classifier(config, start, len(labels))
    fill_trained(model.gpt, tensors, folder / WEIGHTS_NAME)
    set_precision(config.precision)
    model = model.eval().to(choose_device(config.device))
    return SavedClassifier(
        model,
        config,
        tuple(labels),
        config.context_length,
        saved.text_column,
        data_sha256=saved.checksums.partition("+")[0],
    )


def read_saved_config(folder: Path) -> ExperimentConfig:
    """The configuration of a saved model, but for what depends on the machine; its context length
    is what texts are cut to. Nothing else is read. Raises ``TensorFileError`` as
    :func:`load_classifier`."""
    return _read_config(folder).config


class _Saved(NamedTuple):
    """What ``config.json`` says, all of which is ``content``."""

    config: ExperimentConfig
    labels: list[str]
    base: dict[str, Any] | None
    text_column: str
    checksums: str
    content: dict[str, Any]


def _read_config(folder: Path) -> _Saved:
    path = folder / CONFIG_NAME
    try:
        content = parse_json(path.read_bytes())
        config = _read_options(content)
        data = {"text_column": SavedClassifier.text_column, **content["data"]}
        return _Saved(
            config,
            _read_labels(content),
            _read_base(content, config),
            str(data["text_column"]),
            str(data["file_sha256"]),
            content,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TensorFileError(_missing_words(folder)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_error(path, error) from error


def _missing_words(folder: Path) -> str:
    """What to do where a folder is not that of a run with a model."""
    kept = sorted(path.parent for path in folder.glob(f"*/{CONFIG_NAME}"))
    if not kept:
        return (
            f"{folder / CONFIG_NAME}: there is no such file. {folder} holds no saved model; train "
            "one with --save_model."
        )
    names = ", ".join(map(str, kept[:SHOWN_RUNS]))
    more = f" and {len(kept) - SHOWN_RUNS:,} more" if len(kept) > SHOWN_RUNS else ""
    return f"{folder} is not the folder of a run. These runs in it keep a model: {names}{more}"


def _is_whole(config: ExperimentConfig) -> bool:
    """Whether a model was trained whole, and so rests on no other weights."""
    return config.trainable_layers == "all"


# What reads config.json raises KeyError, TypeError or ValueError where something is missing or
# wrong, which is then called damage.


def _read_options(content: dict[str, Any]) -> ExperimentConfig:
    """The configuration that a saved model has, but for what depends on the machine."""
    options = {name: content["options"][name] for name in tagged("model")}
    kinds = {name: type(OPTIONS[name].default) for name in options}
    for name, value in {**options, "max_tokens": content["max_tokens"]}.items():
        kind = kinds.get(name, int)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{name} is {value!r}")
    config = ExperimentConfig(
        **{**options, "precision": "fp32"},
        weights="random",
        batch_size=1,
        context_length=content["max_tokens"],
    )
    if problems := config_problems(config):
        raise ValueError(str(problems[0]))
    return config


def _read_labels(content: dict[str, Any]) -> list[str]:
    """The names of the classes: two or more, all different."""
    labels = content["labels"]
    names = {label for label in labels if isinstance(label, str) and label.strip()}
    if not isinstance(labels, list) or len(labels) < 2 or len(names) < len(labels):
        raise ValueError(f"labels {labels!r}")
    return labels


def _read_base(content: dict[str, Any], config: ExperimentConfig) -> dict[str, Any] | None:
    """What a model's weights rest on, told from all others; none if it was trained whole."""
    base = content["base"]
    if (base is None) != _is_whole(config):
        raise ValueError(f"base {base!r} with {config.trainable_layers}")
    if base is not None:
        for key in ("seed", "torch") if base["weights"] == "random" else ("file_sha256",):
            base[key]
    return base


def _locate_base(base: dict[str, Any], folder: Path) -> str:
    """What --weights is to be for the weights below a model: for a file, where it is now. Raises
    ``TensorFileError`` if their file is not where it was."""
    if base["weights"] in ("pretrained", "random"):
        return base["weights"]
    places = [str(base[key]) for key in ("path", "weights") if key in base]
    for place in places:
        if os.path.exists(place):
            return place
    raise TensorFileError(
        f"{folder} was trained on the weights in {places[0]}, with SHA-256 {base['file_sha256']}, "
        "and they are not there. Name that file with --weights PATH."
    )


def _require_same_base(base: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    """Raise :class:`TensorFileError` if weights are not those that training started from."""
    if any(base.get(key) != found.get(key) for key in ("file_sha256", "seed")):
        raise TensorFileError(
            f"{folder} was trained on other base weights: on {base}, and not on {found}. Name the "
            "right ones with --weights."
        )
    if base.get("torch") != found.get("torch"):
        raise TensorFileError(
            f"{folder} was trained on random weights that PyTorch {base.get('torch')} drew; "
            f"{found.get('torch')} may draw others. Install that version to use it."
        )
