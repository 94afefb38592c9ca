"""GPT-2 from scratch: sizes, attention, block, model, and the copying of published weights.

Letters in shape comments: B texts in a batch, T tokens in a text, D ``emb_dim``,
H heads, d = D / H, V vocabulary, C outputs of the head.

Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019),
section 2.3, on top of "Improving Language Understanding by Generative Pre-Training" (2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ablation.config.sizes import GPTConfig
from ablation.system.errors import CheckpointError

# Repository and revision of each size on the Hugging Face hub.


def pick(hidden: Tensor, at: Tensor) -> Tensor:
    """The states (B, 1, D) of hidden (B, T, D) at one position ``at`` (B,) of each text."""
    return hidden[torch.arange(len(hidden), device=hidden.device), at].unsqueeze(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention. Query, key and value are separate ``Linear`` layers, so
    that LoRA and the order of random draws see three matrices (published GPT-2 has one)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.emb_dim, config.emb_dim)
        self.key = nn.Linear(config.emb_dim, config.emb_dim)
        self.value = nn.Linear(config.emb_dim, config.emb_dim)
        self.out_proj = nn.Linear(config.emb_dim, config.emb_dim)
        self.n_heads = config.n_heads
        self.causal = config.causal
        self.drop_rate = config.drop_rate

    def forward(self, hidden: Tensor, at: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or with ``at`` (B,) only that position's (B, 1, D)."""
        if at is not None:
            return self.out_proj(self._attend_from(hidden, at))
        context = F.scaled_dot_product_attention(
            self._split_heads(self.query(hidden)),
            self._split_heads(self.key(hidden)),
            self._split_heads(self.value(hidden)),
            dropout_p=self.drop_rate if self.training else 0.0,
            is_causal=self.causal,
        )  # (B, H, T, d)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, D)

    def _attend_from(self, hidden: Tensor, at: Tensor) -> Tensor:
        """Attention with one query a text, at position ``at`` (B,); without dropout.

        For one query it is cheaper to move the projections off the T positions:
        q·(W_k x + b_k) = (W_k' q)·x + q·b_k, and Σ p (W_v x + b_v) = W_v (Σ p x) + b_v.
        """
        query = self.query(pick(hidden, at)).unflatten(-1, (self.n_heads, -1))  # (B, 1, H, d)
        query = query.transpose(1, 2)  # (B, H, 1, d)
        key_weight = self.key.weight.unflatten(0, (self.n_heads, -1))  # (H, d, D)
        key_bias = self.key.bias.unflatten(0, (self.n_heads, -1, 1))  # (H, d, 1)
        value_weight = self.value.weight.unflatten(0, (self.n_heads, -1))  # (H, d, D)
        probe = (query.transpose(0, 2).squeeze(0) @ key_weight).transpose(0, 1)  # (B, H, D)
        scores = probe @ hidden.transpose(1, 2) + (query @ key_bias).squeeze(-1)  # (B, H, T)
        scores = scores / query.shape[-1] ** 0.5
        if self.causal:
            later = torch.arange(hidden.shape[1], device=at.device) > at[:, None, None]
            scores = scores.masked_fill(later, -torch.inf)
        mixed = scores.softmax(dim=-1) @ hidden  # (B, H, D)
        context = mixed.transpose(0, 1) @ value_weight.transpose(1, 2)  # (H, B, d)
        return (context.transpose(0, 1).flatten(1) + self.value.bias).unsqueeze(1)  # (B, 1, D)

    def _split_heads(self, projected: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, d)"""
        return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two layers with a GELU in GPT-2's tanh form between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.out_proj = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        return self.out_proj(F.gelu(self.in_proj(hidden), approximate="tanh"))


class TransformerBlock(nn.Module):
    """Pre-norm: each half reads a normalised copy and adds its result to the stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.emb_dim)
        self.attention = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.emb_dim)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.drop_rate)

    def forward(self, hidden: Tensor, at: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or with ``at`` (B,) only that position's (B, 1, D)."""
        stream = hidden if at is None else pick(hidden, at)
        hidden = stream + self.dropout(self.attention(self.norm1(hidden), at))
        return hidden + self.dropout(self.feed_forward(self.norm2(hidden)))


class GPTModel(nn.Module):
    """GPT-2. ``head`` starts as the language-model head; a classifier may replace it.

    Modules are built, and so initialised, in the order in which they are used.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.emb_dim)
        self.position_embedding = nn.Embedding(config.context_length, config.emb_dim)
        self.dropout = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.final_norm = nn.LayerNorm(config.emb_dim)
        self.head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.token_embedding.weight.device

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T), int64, T at most ``context_length`` -> logits (B, T, C)."""
        return self.classify(self.run_blocks(self.embed(tokens)))

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) -> hidden (B, T, D)."""
        positions = self.position_embedding.weight[: tokens.shape[1]]  # (T, D)
        return self.dropout(self.token_embedding(tokens) + positions)

    def run_blocks(
        self, hidden: Tensor, start: int = 0, stop: int | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Hidden (B, T, D) before block ``start`` -> hidden (B, T, D) before block ``stop``.

        With ``at`` (B,) the last block of the model gives only that position's: (B, 1, D).
        """
        for block in self.blocks[start:stop]:
            hidden = block(hidden, at if block is self.blocks[-1] else None)
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        """Hidden (B, T, D) after the last block -> logits (B, T, C)."""
        return self.head(self.final_norm(hidden))


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


def load_published_weights(config: GPTConfig, path: Path) -> GPTModel:
    """Build a model from a GPT-2 checkpoint in Hugging Face's safetensors layout.

    The model is built without initialising it, then filled tensor by tensor, so that no
    second copy of it is ever in memory. Its head is the token embedding, as in GPT-2.

    Raises:
        CheckpointError: the file cannot be read, lacks a tensor or holds one too many, or
            a tensor has the wrong shape, is not floating point, or is not finite.
    """
    with torch.device("meta"):
        model = GPTModel(config)
    model.to_empty(device="cpu")
    model.head.weight = model.token_embedding.weight
    targets = published_names(config.n_layers)
    stored_names = _match_names(path, targets)
    for name, target in targets.items():
        # The file is opened anew for each tensor: what an open file has handed out stays
        # mapped until it is closed, which would add up to the second copy.
        with _open_checkpoint(path) as checkpoint:
            tensor = checkpoint.get_tensor(stored_names[name])
            if name.endswith(TRANSPOSED):
                tensor = tensor.t()
            _copy_tensor(tensor, [model.get_parameter(part) for part in target], name, path)
            del tensor
    return model


def published_names(n_layers: int) -> dict[str, tuple[str, ...]]:
    """Name in a published file -> names of the parameters that it fills.

    Several parameters share a tensor along their outputs; see also ``TRANSPOSED``.
    """
    modules = {"ln_f": ("final_norm",)}
    for i in range(n_layers):
        for theirs, ours in BLOCK_MODULES.items():
            modules[f"h.{i}.{theirs}"] = tuple(f"blocks.{i}.{name}" for name in ours)
    names = {
        "wte.weight": ("token_embedding.weight",),
        "wpe.weight": ("position_embedding.weight",),
    }
    for theirs, ours in modules.items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.{kind}"] = tuple(f"{name}.{kind}" for name in ours)
    return names


def _match_names(path: Path, targets: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Published name -> the name that the file uses, with or without ``transformer.``."""
    with _open_checkpoint(path) as checkpoint:
        names = checkpoint.keys()
    weights = [name for name in names if not name.endswith(NOT_WEIGHTS)]
    stored_names = {name.removeprefix("transformer."): name for name in weights}
    missing = sorted(targets.keys() - stored_names.keys())
    unknown = sorted(stored_names.keys() - targets.keys())
    if missing or unknown or len(stored_names) < len(weights):
        named = ", ".join((missing + unknown)[:3]) or "one tensor under two names"
        raise CheckpointError(
            f"{path} does not hold this GPT-2: missing tensors {len(missing)}, "
            f"unknown ones {len(unknown)} ({named}). {OTHER_FILE}"
        )
    return stored_names


@torch.no_grad()
def _copy_tensor(tensor: Tensor, parameters: list[nn.Parameter], name: str, path: Path) -> None:
    """Copy a published tensor into the parameters that share it along their outputs."""
    shape = (sum(p.shape[0] for p in parameters), *parameters[0].shape[1:])
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{path}: {name} has shape {tuple(tensor.shape)}, this model needs {shape}. "
            f"{OTHER_FILE}"
        )
    for parameter, part in zip(parameters, tensor.chunk(len(parameters)), strict=True):
        parameter.copy_(part)
        if not tensor.is_floating_point() or not torch.isfinite(parameter).all():
            raise CheckpointError(
                f"{path}: {name} ({tensor.dtype}) holds values that are no finite floating-point "
                f"numbers. {OTHER_FILE}"
            )


@contextmanager
def _open_checkpoint(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as checkpoint:
            yield checkpoint
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}). {OTHER_FILE}"
        ) from error
