"""A GPT-2 as a classifier: its weights, its head, what of it trains, and what is read from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from data_utils import LABELS, find_weights
from experiment_config import ExperimentConfig
from gpt_model import GPTModel, load_published_weights
from lora import LoRALinear, MergedLoRALinear, inject_lora

N_TRAINED_BLOCKS = {"last_layer": 0, "last_block": 1, "last_two_blocks": 2}
LORA_LAYERS = {"lora": LoRALinear, "lora_alternative": MergedLoRALinear}


def build_classifier(config: ExperimentConfig) -> GPTModel:
    """Build the model that trains, on the CPU; parameters that do not train need no gradient.

    The order of random draws is the protocol's: the weights, if they are random; then,
    from the seed again, the classifier, and after it LoRA's matrices in module order.

    Raises:
        DataError, CheckpointError: the weights cannot be had or read.
    """
    gpt_config = replace(config.gpt, causal=not config.disable_causal_mask)
    torch.manual_seed(config.seed)
    if config.weights == "random":
        model = GPTModel(gpt_config)
    else:
        model = load_published_weights(gpt_config, find_weights(config))
    model.requires_grad_(False)
    torch.manual_seed(config.seed)
    model.head = nn.Linear(gpt_config.emb_dim, len(LABELS))
    for module in _trained_modules(model, config.trainable_layers):
        module.requires_grad_(True)
    if config.uses_lora:
        layer = LORA_LAYERS[config.trainable_layers]
        inject_lora(model, config.lora_rank, config.lora_alpha, layer)
    return model


def _trained_modules(model: GPTModel, trainable_layers: str) -> Iterable[nn.Module]:
    """The modules whose own weights train, LoRA's matrices aside."""
    if trainable_layers == "all":
        return [model]
    n_blocks = N_TRAINED_BLOCKS.get(trainable_layers, 0)
    norm = [model.final_norm] if n_blocks else []
    return [*model.blocks[len(model.blocks) - n_blocks :], *norm, model.head]


def read_logits(logits: Tensor, lengths: Tensor, config: ExperimentConfig) -> Tensor:
    """Pick or average the positions that a text is classified by.

    Args:
        logits: (B, T, C), at every position.
        lengths: (B,), each text's own tokens.

    Returns:
        (B, C): the logits at the first, the last, or (``flexible``) each text's own last
        position; or their mean over all positions, with ``flexible`` over the text's own.
    """
    flexible = config.trainable_token_pos == "flexible"
    if config.average_embeddings and flexible:
        positions = torch.arange(logits.shape[1], device=logits.device)
        own = (positions < lengths[:, None]).unsqueeze(-1)  # (B, T, 1)
        return (logits * own).sum(dim=1) / lengths[:, None]
    if config.average_embeddings:
        return logits.mean(dim=1)
    if flexible:
        return logits[torch.arange(len(logits), device=logits.device), lengths - 1]
    return logits[:, {"first": 0, "last": -1}[config.trainable_token_pos]]
