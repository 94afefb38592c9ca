"""What memory an experiment needs, from its sizes alone: nothing is allocated to find out.

The model is the one that trains, built on PyTorch's meta device, which knows shapes and holds no
numbers. What a training step keeps of each token is a formula, which a test holds to what autograd
saves.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ablation.classifier.build import GPTClassifier, Reading, build_classifier
from ablation.config.options import ExperimentConfig, tagged
from ablation.finetuning.adamw import trained_parts
from ablation.finetuning.frozen_features import (
    TOKENS_PER_BATCH,
    WINDOW_BYTES,
    count_frozen_blocks,
    cut_splits,
)
from ablation.finetuning.training import MAX_MERGED_TEXTS
from ablation.system.errors import LESS_MEMORY, logger
from ablation.system.machine import choose_device, free_bytes, shapes_only
from ablation.system.parallel import size
from data_utils import PARTS, EncodedTexts, Splits
from gpt_model import GPTModel
from lora import MergedLoRALinear

# Python, PyTorch and the texts. On a GPU it stands for CUDA's context and libraries: an assumption.
PROCESS_BYTES = 500_000_000
# How many times ``emb_dim`` numbers a token takes while a block runs: the block's input, the
# stream, its normalised copy, and four before and four after the GELU. With one query, only the
# input, where it is gathered from, and the normalised copy.
RUNNING, RUNNING_WITH_ONE_QUERY = 11, 3
# On a CPU, the short-lived tensors of LoRA leave holes between those that are kept: measured, a
# fifth of these with MKL's products, none with oneDNN's.
LORA_HOLES = 1.15
PRODUCT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}  # of a number in a product of matrices
SHAPING = tagged("shape")


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one process needs on the device where it computes."""

    weights: int
    gradients: int  # those that are in memory together
    moments: int  # AdamW's two, in fp32
    activations: int  # of the largest pass: what is kept for its backward pass, and at work
    states: int  # hidden states below the first trained block; 0 where they go to disk
    best: int  # the copy of what trains that --keep_best has; on a GPU it is in the CPU's memory
    loading: int  # on the CPU all weights in fp32, before what does not train is cast
    process: int = PROCESS_BYTES

    @property
    def training(self) -> int:
        """What training adds to weights and states."""
        return self.gradients + self.moments + self.activations + self.best

    @property
    def total(self) -> int:
        """The peak."""
        return self.process + max(self.loading, self.weights + self.states + self.training)


def estimate_memory(
    config: ExperimentConfig,
    n_tokens: int,
    n_states: int,
    n_processes: int = 1,
    is_shared: bool = False,
) -> MemoryNeed:
    """What an experiment needs, or, run by several processes, each of them.

    Args:
        n_tokens: positions that go into a batch of one text, at most.
        n_states: the same of all texts together, which is how many hidden states are kept where
            blocks are frozen. :func:`count_positions` finds both.
        n_processes: that share the texts of a batch; each has all hidden states.
        is_shared: whether other experiments in the process use the same hidden states.
    """
    model = _build_gpt(*(getattr(config, name) for name in SHAPING))
    reading = Reading.of(config)
    classifier = GPTClassifier(model, reading, config.precision)
    device = choose_device(config.device).type
    reuses = classifier.reuses_work and count_frozen_blocks(model) > 0
    n_merged = MAX_MERGED_TEXTS // config.batch_size if reuses and reading.mixes_lengths else 1
    n_batches = min(max(1, n_merged), config.accumulation_steps)  # in a pass of training
    tokens_trained = math.ceil(n_batches * config.batch_size / n_processes) * n_tokens
    tokens_evaluated = math.ceil(max(1, n_merged) * config.batch_size / n_processes) * n_tokens

    width = config.gpt.emb_dim * PRODUCT_BYTES[config.precision]
    n_trained_blocks = len(model.blocks) - count_frozen_blocks(model)
    has_one_query = reuses and n_trained_blocks <= 1 and not reading.average
    running = width * (RUNNING_WITH_ONE_QUERY if has_one_query else RUNNING)
    kept = _count_kept(classifier, tokens_trained)
    if config.uses_lora and device == "cpu":
        kept = int(kept * LORA_HOLES)
    activations = max(kept + running * tokens_trained, running * tokens_evaluated)
    states = 0
    if reuses:
        state = config.gpt.emb_dim * model.token_embedding.weight.element_size()
        states = n_states * state
        # Of each text, one is kept.
        if n_trained_blocks == 0 and not reading.average and not is_shared:
            states = min(states, WINDOW_BYTES + n_states // n_tokens * state)
        if config.feature_memory is not None and states > config.feature_memory * 1e9:
            states = 0
        tokens_frozen = max(n_tokens, min(n_states, TOKENS_PER_BATCH.get(device, 0)))
        activations = max(activations, width * RUNNING * tokens_frozen)
    gradients = [_count_bytes(part) for part in trained_parts(model)]
    return MemoryNeed(
        weights=_count_bytes(model.parameters()),
        # Those of a layer are freed in the last pass of an update, and none before.
        gradients=max(gradients) if n_batches == config.accumulation_steps else sum(gradients),
        moments=2 * sum(gradients),
        activations=activations,
        states=states,
        best=sum(gradients) if config.keep_best and device == "cpu" else 0,
        loading=4 * sum(p.numel() for p in model.parameters()) if device == "cpu" else 0,
    )


def count_parameters(config: ExperimentConfig) -> int:
    """How many numbers the model that trains has."""
    model = _build_gpt(*(getattr(config, name) for name in SHAPING))
    return sum(parameter.numel() for parameter in model.parameters())


def count_positions(texts: Splits[EncodedTexts], config: ExperimentConfig) -> tuple[int, int]:
    """How many positions go into batches: of the longest text, and of all together."""
    if not config.no_feature_reuse:
        texts = cut_splits(texts, Reading.of(config))
    counts = torch.cat([getattr(texts, part).n_inputs for part in PARTS])
    return int(counts.max()), int(counts.sum())


@cache
def _build_gpt(*choices: Any) -> GPTModel:
    """The model that trains, by its ``SHAPING`` options; PyTorch's generator stays as it was."""
    config = ExperimentConfig(**dict(zip(SHAPING, choices, strict=True)))
    with shapes_only(), torch.random.fork_rng(devices=()):
        base = GPTModel(config.gpt)
        base.head = nn.Identity()
        return build_classifier(config, base).gpt


def _count_kept(classifier: GPTClassifier, n_tokens: int) -> int:
    """Bytes that autograd keeps of a pass over ``n_tokens`` tokens, parameters aside."""
    gpt, product = classifier.gpt, PRODUCT_BYTES[classifier.precision]
    stream = gpt.token_embedding.weight.element_size()
    # A block keeps the stream before each half; its normalised copies, which are cast for each of
    # the four products that read them; query, key, value, context; four before and after the GELU.
    n_normalised = 2 if stream == product else 4
    block = 2 * stream + (n_normalised + 4 + 8) * product
    n_blocks = len(gpt.blocks) - count_frozen_blocks(gpt)
    if classifier.reuses_work and not classifier.reading.average:
        # With one query, the last block keeps its normalised copy, and its input above another.
        per_token = max(0, n_blocks - 1) * block + min(n_blocks, 2) * stream
    else:
        per_token = n_blocks * block + 2 * 4  # the last norm and the classifier are in fp32
    # What products read in place of weights: trained ones that are cast, and the sums of weights
    # and LoRA's products.
    trained = (p for p in gpt.blocks.parameters() if p.requires_grad and p.ndim == 2)
    merged = (m.linear.weight for m in gpt.modules() if isinstance(m, MergedLoRALinear))
    copied = sum(p.numel() for p in (*(trained if product < 4 else ()), *merged))
    return n_tokens * gpt.config.emb_dim * per_token + product * copied


def _count_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def require_memory(texts: Splits[EncodedTexts], config: ExperimentConfig) -> None:
    """Raise ``MemoryError`` where AdamW's two moments are sure not to fit, and warn where what a
    training step needs beside them may not fit as well. The weights are in memory already."""

    def needed(config: ExperimentConfig) -> MemoryNeed:
        return estimate_memory(config, *count_positions(texts, config), size())

    need, free = needed(config), free_bytes(choose_device(config.device))
    if need.moments > free:
        raise MemoryError(
            f"AdamW's moments alone take {need.moments / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free"
        )
    if 1.25 * need.training > free:
        halved = replace(
            config,
            batch_size=max(1, config.batch_size // 2),
            accumulation_steps=2 * config.accumulation_steps,
        )
        # Accumulating keeps all gradients, which may be more than it saves.
        advice = f"{LESS_MEMORY} --accumulation_steps would need more, for all gradients at once."
        if needed(halved).training < need.training:
            advice = (
                "Half the --batch_size with twice the --accumulation_steps makes the same updates "
                "with less."
            )
        logger.warning(
            "Memory is short: training takes about %.1f GB, and %.1f GB are free. %s",
            need.training / 1e9,
            free / 1e9,
            advice,
        )
