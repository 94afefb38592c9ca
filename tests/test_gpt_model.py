import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ablation.classifier.published_weights import load_published_weights, published_names
from ablation.config.sizes import MODEL_SIZES, GPTConfig
from ablation.system.errors import TensorFileError
from gpt_model import GPTModel, SelfAttention


def naive_attention(attention: SelfAttention, hidden: torch.Tensor, causal: bool) -> torch.Tensor:
    """One head, one query, one key at a time, in plain Python."""
    n_texts, n_tokens, emb_dim = hidden.shape
    head_dim = emb_dim // attention.n_heads
    query, key, value = (
        hidden @ layer.weight.T + layer.bias
        for layer in (attention.query, attention.key, attention.value)
    )
    context = torch.zeros_like(hidden)
    for b in range(n_texts):
        for start in range(0, emb_dim, head_dim):
            head = slice(start, start + head_dim)
            for t in range(n_tokens):
                seen = range(t + 1) if causal else range(n_tokens)
                scores = [float(query[b, t, head] @ key[b, s, head]) for s in seen]
                exps = [math.exp(score / math.sqrt(head_dim)) for score in scores]
                for s, e in zip(seen, exps, strict=True):
                    context[b, t, head] += e / sum(exps) * value[b, s, head]
    return context @ attention.out_proj.weight.T + attention.out_proj.bias


@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_the_naive_form(gpt_config: GPTConfig, causal: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(replace(gpt_config, causal=causal)).double()
    hidden = torch.randn(2, 7, gpt_config.emb_dim, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            attention(hidden), naive_attention(attention, hidden, causal), rtol=0, atol=1e-12
        )


def test_the_mask_is_a_switch(gpt_config: GPTConfig) -> None:
    tokens = torch.randint(97, (2, 9))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 97
    for causal in (True, False):
        model = GPTModel(replace(gpt_config, causal=causal))
        assert not list(model.buffers())
        with torch.no_grad():
            same = torch.isclose(model(tokens), model(changed), atol=1e-6).all(-1).all(0)
        assert same[:5].tolist() == [causal] * 5
        assert not same[5:].any()


@pytest.mark.parametrize(
    ("size", "expected"),  # the counts that transformers gives for the published models
    [
        ("gpt2-small (124M)", 124_439_808),
        ("gpt2-medium (355M)", 354_823_168),
        ("gpt2-large (774M)", 774_030_080),
        ("gpt2-xl (1558M)", 1_557_611_200),
    ],
)
def test_sizes(size: str, expected: int) -> None:
    with torch.device("meta"):
        model = GPTModel(MODEL_SIZES[size])
    n_parameters = sum(p.numel() for p in model.parameters())
    assert n_parameters - model.head.weight.numel() == expected


# ---------------------------------------------------------------- published weights


@pytest.fixture(scope="module")
def published() -> transformers.GPT2LMHeadModel:
    """A GPT-2 of transformers, with every parameter, biases and norms too, drawn at random."""
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=16, n_layer=3, n_head=4)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


@pytest.fixture
def checkpoint(published: transformers.GPT2LMHeadModel, tmp_path: Path) -> Path:
    published.transformer.save_pretrained(tmp_path)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_logits_equal_transformers(
    published: transformers.GPT2LMHeadModel,
    gpt_config: GPTConfig,
    tmp_path: Path,
    prefixed: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    (published if prefixed else published.transformer).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    assert any(name.startswith("transformer.") for name in load_file(path)) == prefixed
    model = load_published_weights(gpt_config, path).to(dtype)
    tokens = torch.randint(97, (4, 32))
    with torch.no_grad():
        expected = published.to(dtype)(tokens).logits
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=tolerance)
    published.float()


def test_buffers_and_the_tied_head_are_skipped(checkpoint: Path, gpt_config: GPTConfig) -> None:
    tensors = load_file(checkpoint)
    plain = load_published_weights(gpt_config, checkpoint)
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    tensors["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, checkpoint)
    model = load_published_weights(gpt_config, checkpoint)
    tokens = torch.arange(32)[None]
    assert torch.equal(model(tokens), plain(tokens))


def test_half_precision_files_fill_a_float32_model(checkpoint: Path, gpt_config: GPTConfig) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(checkpoint).items()}
    save_file(tensors, checkpoint)
    model = load_published_weights(gpt_config, checkpoint)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    filled = [name for names in published_names(3).values() for name in names]
    assert sorted(filled) == sorted(name for name, _ in model.named_parameters())
    assert torch.equal(model.token_embedding.weight, tensors["wte.weight"].float())


def test_loading_draws_nothing(checkpoint: Path, gpt_config: GPTConfig) -> None:
    before = torch.get_rng_state()
    load_published_weights(gpt_config, checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


def drop(tensors: dict) -> None:
    del tensors["h.1.mlp.c_fc.bias"]


def add(tensors: dict) -> None:
    tensors["h.3.ln_1.weight"] = torch.ones(16)


def add_twice(tensors: dict) -> None:
    tensors["transformer.wte.weight"] = tensors["wte.weight"].clone()


def reshape(tensors: dict) -> None:
    tensors["h.0.mlp.c_fc.weight"] = tensors["h.0.mlp.c_fc.weight"].t().contiguous()


def spoil(tensors: dict) -> None:
    tensors["wpe.weight"][3, 3] = math.nan


def to_integers(tensors: dict) -> None:
    tensors["ln_f.bias"] = tensors["ln_f.bias"].long()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, r"missing tensors 1, unknown ones 0 \(h\.1\.mlp\.c_fc\.bias\)"),
        (add, r"missing tensors 0, unknown ones 1 \(h\.3\.ln_1\.weight\)"),
        (add_twice, "one tensor under two names"),
        (reshape, r"h\.0\.mlp\.c_fc\.weight has shape \(16, 64\), this model needs \(64, 16\)"),
        (spoil, r"wpe\.weight .* not finite"),
        (to_integers, r"ln_f\.bias \(torch\.int64\)"),
    ],
)
def test_wrong_checkpoints_are_refused(
    checkpoint: Path, gpt_config: GPTConfig, damage: callable, message: str
) -> None:
    tensors = load_file(checkpoint)
    damage(tensors)
    save_file(tensors, checkpoint)
    with pytest.raises(TensorFileError, match=message):
        load_published_weights(gpt_config, checkpoint)


@pytest.mark.parametrize("kept", [0, 4, 100, -10])
def test_truncated_checkpoints_are_refused(
    checkpoint: Path, gpt_config: GPTConfig, kept: int
) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    with pytest.raises(TensorFileError, match="cannot be read as safetensors"):
        load_published_weights(gpt_config, checkpoint)


def test_another_size_is_refused(checkpoint: Path, gpt_config: GPTConfig) -> None:
    with pytest.raises(TensorFileError, match="does not hold this GPT-2: missing tensors 0"):
        load_published_weights(replace(gpt_config, n_layers=2), checkpoint)
    with pytest.raises(TensorFileError, match="has shape"):
        load_published_weights(replace(gpt_config, emb_dim=32), checkpoint)


LOAD_AND_MEASURE = """
import resource, sys
from pathlib import Path
from ablation.classifier.published_weights import load_published_weights
from ablation.config.sizes import GPTConfig
config = GPTConfig(emb_dim=768, n_layers=8, n_heads=8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_published_weights(config, Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.slow
def test_loading_keeps_no_second_copy(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    transformers.GPT2Model(
        transformers.GPT2Config(n_embd=768, n_layer=8, n_head=8)
    ).save_pretrained(tmp_path)
    measured = subprocess.run(
        [sys.executable, "-c", LOAD_AND_MEASURE, path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    added_bytes = int(measured.stdout) * 1024
    largest_tensor = 50257 * 768 * 4
    assert added_bytes < path.stat().st_size + 1.3 * largest_tensor
