"""What trained of a model, in safetensors files that are never half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from errors import CheckpointError
from files import parse_json, replacing
from gpt_model import GPTModel


def trained_tensors(model: GPTModel) -> dict[str, Tensor]:
    """What trains of a model, by name."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a safetensors file, in place of an earlier one only when it is complete.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, temporary, {"format": "pt", "header": json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({error}). Make room, or choose another --output_dir."
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that :func:`write_tensors` wrote.

    Raises:
        CheckpointError: the file cannot be read, or is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {})["header"])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise damaged(path, error) from error


def fill_trained(model: GPTModel, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy into a model what :func:`trained_tensors` gave of an equal one.

    Raises:
        CheckpointError: names, shapes or dtypes differ, or a value is not finite.
    """
    trained = trained_tensors(model)
    if trained.keys() != tensors.keys():
        differing = sorted(trained.keys() ^ tensors.keys())
        raise damaged(path, f"{len(differing)} tensors too many or too few, as {differing[0]}")
    for name, parameter in trained.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            raise damaged(path, f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise damaged(path, f"{name} holds values that are not finite")
        parameter.copy_(tensor)


def damaged(path: Path, reason: object) -> CheckpointError:
    """The error to raise when a file does not hold what it should."""
    if isinstance(reason, FileNotFoundError):
        return CheckpointError(f"{path} is not there.")
    return CheckpointError(f"{path} is damaged ({reason}). Delete it, and run again.")
