"""A GPT-2 as a classifier: its weights, its head, what of it trains, and what is read from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ablation.classifier.weight_files import find_weights
from ablation.config.options import ExperimentConfig
from ablation.system.parallel import map_rows
from data_utils import Batch
from gpt_model import GPTModel, load_published_weights, pick
from lora import LoRALinear, MergedLoRALinear, inject_lora

N_TRAINED_BLOCKS = {"last_layer": 0, "last_block": 1, "last_two_blocks": 2}
LORA_LAYERS = {"lora": LoRALinear, "lora_alternative": MergedLoRALinear}


def load_weights(config: ExperimentConfig) -> GPTModel:
    """A GPT-2 without a head, with the weights that training starts from, on the CPU.

    Raises:
        DataError, CheckpointError: the weights are missing or damaged.
    """
    torch.manual_seed(config.seed)
    if config.weights == "random":
        model = GPTModel(config.gpt)
    else:
        model = load_published_weights(config.gpt, find_weights(config))
    model.head = nn.Identity()
    return model


def build_classifier(
    config: ExperimentConfig, base: GPTModel | None = None, n_classes: int = 2
) -> GPTModel:
    """Build the model that trains, on the CPU; parameters that do not train need no gradient.

    The order of random draws is the protocol's: the weights, if they are random; then,
    from the seed again, the classifier, and after it LoRA's matrices in module order.

    Args:
        base: what :func:`load_weights` gave; it never changes, and what does not train is
            shared with it. By default the weights are loaded.

    Raises:
        DataError, CheckpointError: the weights are missing or damaged.
    """
    with torch.device("meta"):
        model = GPTModel(replace(config.gpt, causal=not config.disable_causal_mask))
    model.head = nn.Identity()  # until it gets its own
    model.load_state_dict((base or load_weights(config)).state_dict(), assign=True)
    model.requires_grad_(False)
    torch.manual_seed(config.seed)
    model.head = nn.Linear(config.gpt.emb_dim, n_classes)
    for module in _trained_modules(model, config):
        module.requires_grad_(True)
        if base:
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
    if config.uses_lora:
        layer = LORA_LAYERS[config.trainable_layers]
        inject_lora(model, config.lora_rank, config.lora_alpha, layer)
    if config.precision == "bf16":
        cast_frozen(model)
    return model


def count_trained_blocks(config: ExperimentConfig) -> int:
    """How many blocks, from the last down, have something trainable in or below them."""
    return N_TRAINED_BLOCKS.get(config.trainable_layers, config.gpt.n_layers)


def _trained_modules(model: GPTModel, config: ExperimentConfig) -> Iterable[nn.Module]:
    """The modules whose own weights train, LoRA's matrices aside."""
    if config.trainable_layers == "all":
        return [model]
    n_blocks = 0 if config.uses_lora else count_trained_blocks(config)
    norm = [model.final_norm] if n_blocks else []
    return [*model.blocks[len(model.blocks) - n_blocks :], *norm, model.head]


def takes_fast_path(model: GPTModel, config: ExperimentConfig) -> bool:
    """Whether work may be reused and left out: the same function, without dropout."""
    return not config.no_feature_reuse and model.config.drop_rate == 0


def read_positions(lengths: Tensor, padded_lengths: Tensor, config: ExperimentConfig) -> Tensor:
    """The position (B,) by which each text is classified, where they are not averaged."""
    position = config.trainable_token_pos
    if position == "first":
        return torch.zeros_like(lengths)
    return (lengths if position == "flexible" else padded_lengths) - 1


def averaged_positions(lengths: Tensor, padded_lengths: Tensor, config: ExperimentConfig) -> Tensor:
    """How many positions (B,) of each text are averaged, where they are."""
    return lengths if config.trainable_token_pos == "flexible" else padded_lengths


def needed_positions(lengths: Tensor, padded_lengths: Tensor, config: ExperimentConfig) -> Tensor:
    """How many leading positions (B,) of each text decide what is read of it."""
    if config.disable_causal_mask:
        return padded_lengths
    if config.average_embeddings:
        return averaged_positions(lengths, padded_lengths, config)
    return read_positions(lengths, padded_lengths, config) + 1


def may_merge(config: ExperimentConfig) -> bool:
    """Whether texts of different lengths may share a batch: without the causal mask, they would
    see each other's padding."""
    return not (config.no_padding and config.disable_causal_mask)


def classify(model: GPTModel, batch: Batch, config: ExperimentConfig) -> tuple[Tensor, Tensor]:
    """The logits (B, C) that are read of each text, and the labels (B,), on the model's device.

    Several processes share the texts out among them.
    """
    batch = batch.to(model.device)
    return map_rows(lambda texts: _run(model, texts, config), batch), batch.labels


def _run(model: GPTModel, batch: Batch, config: ExperimentConfig) -> Tensor:
    at = None
    if takes_fast_path(model, config) and not config.average_embeddings:
        at = read_positions(batch.lengths, batch.padded_lengths, config)
    with autocast(model, config):
        hidden = batch.inputs if batch.n_blocks else model.embed(batch.inputs)
        hidden = model.run_blocks(hidden, start=batch.n_blocks, at=at)
    # The final norm and the classifier keep their own precision.
    logits = model.classify(hidden.to(model.final_norm.weight.dtype))
    return logits[:, 0] if at is not None else read_logits(logits, batch, config)


def read_logits(logits: Tensor, batch: Batch, config: ExperimentConfig) -> Tensor:
    """Logits at every position (B, T, C) -> those that are read, or their mean: (B, C)."""
    if not config.average_embeddings:
        return pick(logits, read_positions(batch.lengths, batch.padded_lengths, config))[:, 0]
    n_averaged = averaged_positions(batch.lengths, batch.padded_lengths, config)[:, None]  # (B, 1)
    averaged = torch.arange(logits.shape[1], device=logits.device) < n_averaged  # (B, T)
    return (logits * averaged[..., None]).sum(dim=1) / n_averaged


def autocast(model: GPTModel, config: ExperimentConfig) -> torch.autocast:
    """The context in which blocks run: in bfloat16 where the configuration says so."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def cast_frozen(model: GPTModel) -> None:
    """Turn what does not train to bfloat16, once, so that it need not be at every call.

    Norms are left: they are small, and what they compute is best kept exact.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.requires_grad:
            module.to(torch.bfloat16)
