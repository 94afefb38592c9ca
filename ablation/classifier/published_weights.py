"""Published GPT-2 weights: which of their tensors fills what, and a model filled from a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ablation.config.sizes import GPTConfig
from ablation.system.errors import TensorFileError
from ablation.system.machine import shapes_only
from gpt_model import GPTModel

# Where a tensor of a published block goes. Several names share a tensor along its outputs.
BLOCK_MODULES = {
    "ln_1": ("norm1",),
    "attn.c_attn": ("attention.query", "attention.key", "attention.value"),
    "attn.c_proj": ("attention.out_proj",),
    "ln_2": ("norm2",),
    "mlp.c_fc": ("feed_forward.in_proj",),
    "mlp.c_proj": ("feed_forward.out_proj",),
}
# Published linear layers are ``Conv1D``s: (in, out), where ``Linear`` keeps (out, in).
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# Stored in some files, but no weights of their own: mask buffers, and the head, which in
# GPT-2 is the token embedding once more.
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
OTHER_FILE = "Get the file again, or name another one with --weights."


def published_names(n_layers: int) -> dict[str, tuple[str, ...]]:
    """Name in a published file -> names of the parameters that it fills.

    Several parameters share a tensor along their outputs; see also ``TRANSPOSED``.
    """
    names = {
        "wte.weight": ("token_embedding.weight",),
        "wpe.weight": ("position_embedding.weight",),
    }
    modules = {"ln_f": ("final_norm",)}
    for i in range(n_layers):
        for theirs, ours in BLOCK_MODULES.items():
            modules[f"h.{i}.{theirs}"] = tuple(f"blocks.{i}.{name}" for name in ours)
    for theirs, ours in modules.items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.{kind}"] = tuple(f"{name}.{kind}" for name in ours)
    return names


def load_published_weights(config: GPTConfig, path: Path) -> GPTModel:
    """Build a model from GPT-2's weights in Hugging Face's safetensors layout.

    The model is built without initialising it, then filled tensor by tensor, so that no second copy
    of it is ever in memory. Its head is the token embedding, as in GPT-2. Raises
    ``TensorFileError`` if the file cannot be read, lacks a tensor or holds one too many, or a
    tensor has the wrong shape, is not floating point, or is not finite.
    """
    with shapes_only():
        model = GPTModel(config)
    model.to_empty(device="cpu")
    model.head.weight = model.token_embedding.weight
    targets = published_names(config.n_layers)
    stored_names = _match_names(path, targets)
    for name, target in targets.items():
        # The file is opened anew for each tensor: what an open file has handed out stays
        # mapped until it is closed, which would add up to the second copy.
        with _open_weights(path) as weights_file:
            tensor = weights_file.get_tensor(stored_names[name])
            if name.endswith(TRANSPOSED):
                tensor = tensor.t()
            _copy_tensor(tensor, [model.get_parameter(part) for part in target], f"{path}: {name}")
            del tensor
    return model


def _match_names(path: Path, targets: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Published name -> the name that the file uses, with or without ``transformer.``."""
    with _open_weights(path) as weights_file:
        weights = [name for name in weights_file.keys() if not name.endswith(NOT_WEIGHTS)]  # noqa: SIM118
    stored_names = {name.removeprefix("transformer."): name for name in weights}
    missing = sorted(targets.keys() - stored_names.keys())
    unknown = sorted(stored_names.keys() - targets.keys())
    if missing or unknown or len(stored_names) < len(weights):
        named = ", ".join((missing + unknown)[:3]) or "one tensor under two names"
        raise TensorFileError(
            f"{path} does not hold this GPT-2: missing tensors {len(missing)}, "
            f"unknown ones {len(unknown)} ({named}). {OTHER_FILE}"
        )
    return stored_names


@torch.no_grad()
def _copy_tensor(tensor: Tensor, parameters: list[nn.Parameter], place: str) -> None:
    """Copy a published tensor into the parameters that share it along their outputs."""
    shape = (sum(p.shape[0] for p in parameters), *parameters[0].shape[1:])
    if tuple(tensor.shape) != shape:
        raise TensorFileError(
            f"{place} has shape {tuple(tensor.shape)}, this model needs {shape}. {OTHER_FILE}"
        )
    for parameter, part in zip(parameters, tensor.chunk(len(parameters)), strict=True):
        parameter.copy_(part)
        if not tensor.is_floating_point() or not torch.isfinite(parameter).all():
            raise TensorFileError(
                f"{place} ({tensor.dtype}) holds values that are not finite floating-point "
                f"numbers. {OTHER_FILE}"
            )


@contextmanager
def _open_weights(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as weights_file:
            yield weights_file
    except (SafetensorError, OSError) as error:
        raise TensorFileError(
            f"{path} cannot be read as safetensors ({error}). {OTHER_FILE}"
        ) from error
