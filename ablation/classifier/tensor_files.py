"""What trained of a model, in safetensors files that are never half-written, nor read damaged.

A file's metadata has a ``header`` of JSON, in it the ``version`` of this format, and a ``sha256``
of the header and of all tensors.

Source: the format of safetensors (https://huggingface.co/docs/safetensors). Files are written
here because the package's ``save_file`` needs all tensors at once, and writes to a file of a name
that it makes up, which a killed process leaves behind.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ablation.system.errors import TensorFileError
from ablation.system.files import parse_json, replacing
from gpt_model import GPTModel

VERSION = 2  # the first had neither a version nor a checksum
DTYPES = {  # as safetensors names them
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"},
}


def trained_tensors(model: GPTModel) -> dict[str, Tensor]:
    """What trains of a model, by name."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a safetensors file, in place of an earlier one only when it is complete. Raises
    ``TensorFileError`` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
            text = json.dumps({"version": VERSION, **header})
            checksum = checksum_tensors(text, on_cpu)
            ordered = sorted(on_cpu.items(), key=lambda item: -item[1].itemsize)  # all are aligned
            write_safetensors(temporary, lambda: ordered, {"header": text, "sha256": checksum})
    except OSError as error:
        raise TensorFileError(
            f"{path} cannot be written ({error}). Make room, or choose another --output_dir."
        ) from error


def write_safetensors(
    path: Path,
    give: Callable[[], Iterable[tuple[str, Tensor]]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, tensor by tensor.

    Args:
        give: names and tensors; called twice, for shapes and for numbers.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in give():
        start, end = end, end + tensor.itemsize * math.prod(tensor.shape)
        dtype = DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # numbers start at a multiple of their size
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, tensor in give():
            file.write(_bytes_of(tensor.detach().cpu()))


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The bytes (n,) of a tensor on the CPU, which NumPy has for every dtype."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that :func:`write_tensors` wrote. Raises ``TensorFileError`` if
    the file cannot be read, is damaged, or is of a later version."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = parse_json(metadata["header"])
        version = header.pop("version", None)
        if metadata["sha256"] != checksum_tensors(metadata["header"], tensors):
            raise ValueError("its checksum is not that of what it holds")
        if version != VERSION:
            raise TensorFileError(
                f"{path} has version {version} of its format, and this program reads {VERSION}. "
                "Use the program that wrote it, or delete the file and run again."
            )
        return header, tensors
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise damaged_error(path, error) from error


def checksum_tensors(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header and of tensors on the CPU: names, dtypes, shapes and bytes, by name."""
    checksum = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        checksum.update(_bytes_of(tensor))
    return checksum.hexdigest()


def fill_trained(model: GPTModel, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy into a model what :func:`trained_tensors` gave of an equal one. Raises
    ``TensorFileError`` if names, shapes or dtypes differ, or a value is not finite."""
    trained = trained_tensors(model)
    if trained.keys() != tensors.keys():
        differing = sorted(trained.keys() ^ tensors.keys())
        raise damaged_error(
            path, f"{len(differing)} tensors too many or too few, as {differing[0]}"
        )
    for name, parameter in trained.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            raise damaged_error(path, f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise damaged_error(path, f"{name} holds values that are not finite")
        parameter.copy_(tensor)


def damaged_error(path: Path, reason: object) -> TensorFileError:
    """The error to raise when a file does not hold what it should."""
    if isinstance(reason, FileNotFoundError):
        return TensorFileError(f"{path} is not there.")
    if isinstance(reason, KeyError):
        reason = f"it lacks {reason}"
    return TensorFileError(f"{path} is damaged ({reason}). Delete it, and run again.")
