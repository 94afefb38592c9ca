"""The shapes of GPT-2, and its published weights, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. ``causal=False`` lets every token attend to every other."""

    emb_dim: int
    n_layers: int
    n_heads: int
    vocab_size: int = 50257
    context_length: int = 1024
    drop_rate: float = 0.0
    causal: bool = True


MODEL_SIZES = {
    "gpt2-tiny (3M)": GPTConfig(emb_dim=64, n_layers=4, n_heads=4),
    "gpt2-small (124M)": GPTConfig(emb_dim=768, n_layers=12, n_heads=12),
    "gpt2-medium (355M)": GPTConfig(emb_dim=1024, n_layers=24, n_heads=16),
    "gpt2-large (774M)": GPTConfig(emb_dim=1280, n_layers=36, n_heads=20),
    "gpt2-xl (1558M)": GPTConfig(emb_dim=1600, n_layers=48, n_heads=25),
}

# Repository and revision of each size on the Hugging Face hub.
PUBLISHED_WEIGHTS = {
    "gpt2-small (124M)": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium (355M)": (
        "openai-community/gpt2-medium",
        "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    ),
    "gpt2-large (774M)": (
        "openai-community/gpt2-large",
        "32b71b12589c2f8d625668d2335a01cac3249519",
    ),
    "gpt2-xl (1558M)": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}
