"""The shapes of GPT-2, and its published weights, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2. ``causal=False`` lets every token attend to every other."""

    emb_dim: int
    n_layers: int
    n_heads: int
    vocab_size: int = 50257
    context_length: int = 1024
    causal: bool = True


@dataclass(frozen=True)
class PublishedWeights:
    """One file on the Hugging Face hub, and what tells it from any other."""

    repository: str
    revision: str
    n_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The repository without its owner, which is what it was called before it had one."""
        return self.repository.split("/")[1]


MODEL_SIZES = {
    "gpt2-tiny (3M)": GPTConfig(emb_dim=64, n_layers=4, n_heads=4),
    "gpt2-small (124M)": GPTConfig(emb_dim=768, n_layers=12, n_heads=12),
    "gpt2-medium (355M)": GPTConfig(emb_dim=1024, n_layers=24, n_heads=16),
    "gpt2-large (774M)": GPTConfig(emb_dim=1280, n_layers=36, n_heads=20),
    "gpt2-xl (1558M)": GPTConfig(emb_dim=1600, n_layers=48, n_heads=25),
}

# ``model.safetensors`` of each size, as its repository has it at one revision.
PUBLISHED_WEIGHTS = {
    "gpt2-small (124M)": PublishedWeights(
        repository="openai-community/gpt2",
        revision="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        n_bytes=548_105_171,
        sha256="248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-medium (355M)": PublishedWeights(
        repository="openai-community/gpt2-medium",
        revision="6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        n_bytes=1_519_984_962,
        sha256="fc5a354a19255ad494f3d71549390baca1ccf61d1d822b9408971705c687c9cd",
    ),
    "gpt2-large (774M)": PublishedWeights(
        repository="openai-community/gpt2-large",
        revision="32b71b12589c2f8d625668d2335a01cac3249519",
        n_bytes=3_247_159_078,
        sha256="5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    ),
    "gpt2-xl (1558M)": PublishedWeights(
        repository="openai-community/gpt2-xl",
        revision="15ea56dee5df4983c59b2538573817e1667135e2",
        n_bytes=6_431_829_964,
        sha256="0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
}
