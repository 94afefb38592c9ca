"""GPT-2 from scratch, without dropout: attention, block, model.

Letters in shape comments: B texts in a batch, T tokens in a text, D ``emb_dim``,
H heads, d = D / H, V vocabulary, C outputs of the head.

Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019),
section 2.3, on top of "Improving Language Understanding by Generative Pre-Training" (2018).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablation.config.sizes import GPTConfig
from ablation.system.products import Linear


def pick(hidden: Tensor, at: Tensor) -> Tensor:
    """The states (B, 1, D) of hidden (B, T, D) at one position ``at`` (B,) of each text."""
    return hidden[torch.arange(len(hidden), device=hidden.device), at].unsqueeze(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention. Query, key and value are separate ``Linear`` layers, so
    that LoRA and the order of random draws see three matrices (published GPT-2 has one)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.query = Linear(config.emb_dim, config.emb_dim)
        self.key = Linear(config.emb_dim, config.emb_dim)
        self.value = Linear(config.emb_dim, config.emb_dim)
        self.out_proj = Linear(config.emb_dim, config.emb_dim)
        self.n_heads = config.n_heads
        self.causal = config.causal

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        context = F.scaled_dot_product_attention(
            self._split_heads(self.query(hidden)),
            self._split_heads(self.key(hidden)),
            self._split_heads(self.value(hidden)),
            is_causal=self.causal,
        )  # (B, H, T, d)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, D)

    def attend_from(self, hidden: Tensor, norm: nn.LayerNorm, at: Tensor) -> Tensor:
        """What :meth:`forward` gives of norm(hidden) (B, T, D) at one position ``at`` (B,) of
        each text: (B, 1, D).

        For one query it is cheaper to move the projections, and the weight and bias of the norm,
        off the T positions: q·(W_k x + b_k) = (W_k' q)·x + q·b_k, and Σ p (W_v x + b_v) =
        W_v (Σ p x) + b_v.
        """
        hidden = F.layer_norm(hidden, hidden.shape[-1:], eps=norm.eps)
        query = self.query(pick(hidden, at) * norm.weight + norm.bias)  # (B, 1, D)
        query = query.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, 1, d)
        key_weight = self.key.weight.unflatten(0, (self.n_heads, -1))  # (H, d, D)
        key_bias = self.key.bias.unflatten(0, (self.n_heads, -1, 1))  # (H, d, 1)
        value_weight = self.value.weight.unflatten(0, (self.n_heads, -1))  # (H, d, D)
        probe = (query.transpose(0, 2).squeeze(0) @ key_weight).transpose(0, 1)  # (B, H, D)
        # The norm's bias would add the same to a query's scores, which softmax does not see.
        scores = (probe * norm.weight) @ hidden.transpose(1, 2)  # (B, H, T)
        scores = (scores + (query @ key_bias).squeeze(-1)) / query.shape[-1] ** 0.5
        if self.causal:
            later = torch.arange(hidden.shape[1], device=at.device) > at[:, None, None]
            scores = scores.masked_fill(later, -torch.inf)
        mixed = (scores.softmax(dim=-1) @ hidden) * norm.weight + norm.bias  # (B, H, D)
        context = mixed.transpose(0, 1) @ value_weight.transpose(1, 2)  # (H, B, d)
        context = context.transpose(0, 1).flatten(1) + self.value.bias  # (B, D)
        return self.out_proj(context.unsqueeze(1))

    def _split_heads(self, projected: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, d)"""
        return projected.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two layers with a GELU in GPT-2's tanh form between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.in_proj = Linear(config.emb_dim, 4 * config.emb_dim)
        self.out_proj = Linear(4 * config.emb_dim, config.emb_dim)

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

    def forward(self, hidden: Tensor, at: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or with ``at`` (B,) only that position's (B, 1, D)."""
        if at is None:
            hidden = hidden + self.attention(self.norm1(hidden))
        else:
            hidden = pick(hidden, at) + self.attention.attend_from(hidden, self.norm1, at)
        return hidden + self.feed_forward(self.norm2(hidden))


class GPTModel(nn.Module):
    """GPT-2. ``head`` starts as the language-model head; a classifier may replace it.

    Modules are built, and so initialised, in the order in which they are used.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.emb_dim)
        self.position_embedding = nn.Embedding(config.context_length, config.emb_dim)
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
        return self.token_embedding(tokens) + positions

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
