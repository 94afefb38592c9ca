"""The published weights, loaded and run here, give the numbers that others published for them.

A test is skipped where its file is neither in Hugging Face's cache nor in the folder that
GPT2_WEIGHTS_DIR names, which is laid out as for --weights_dir. What compares is tested first, on a
small model of transformers.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from ablation.classifier.build import build_classifier
from ablation.classifier.published_weights import load_published_weights
from ablation.classifier.weight_files import find_weights, locate_published
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.data.vocabulary import gpt2_encoding
from gpt_model import GPTConfig, GPTModel

SMALL, MEDIUM, XL = "gpt2-small (124M)", "gpt2-medium (355M)", "gpt2-xl (1558M)"


def final_states(model: GPTModel, tokens: Sequence[int]) -> Tensor:
    """States (T, D) after the final norm."""
    with torch.inference_mode():
        hidden = model.run_blocks(model.embed(torch.tensor([tokens])))
        return model.final_norm(hidden)[0]


def logits_of(model: GPTModel, tokens: Sequence[int]) -> Tensor:
    """What the head makes of each position: (T, C)."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0]


def continue_greedily(model: GPTModel, tokens: Sequence[int], n_tokens: int) -> list[int]:
    """The tokens that follow if each time the most probable one is taken."""
    following: list[int] = []
    for _ in range(n_tokens):
        following.append(int(logits_of(model, [*tokens, *following])[-1].argmax()))
    return following


def require_close(found: Tensor, published: object, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, torch.tensor(published), rtol=0, atol=tolerance)


# ---------------------------------------------------------------- what compares


@pytest.fixture(scope="module")
def theirs() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(5)
    shape = transformers.GPT2Config(vocab_size=97, n_positions=32, n_embd=16, n_layer=3, n_head=4)
    model = transformers.GPT2LMHeadModel(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        model.transformer.wpe.weight.mul_(4)  # or one token would follow over and over
        model.transformer.ln_f.bias.zero_()
    return model.eval()


@pytest.fixture
def ours(theirs: transformers.GPT2LMHeadModel, gpt_config: GPTConfig, tmp_path: Path) -> GPTModel:
    theirs.transformer.save_pretrained(tmp_path)
    return load_published_weights(gpt_config, tmp_path / "model.safetensors").eval()


@pytest.mark.parametrize("tokens", [[1, 5, 9], [96], [3, 3, 3, 3, 50, 2]])
def test_what_compares(
    theirs: transformers.GPT2LMHeadModel, ours: GPTModel, tokens: list[int]
) -> None:
    given = torch.tensor([tokens])
    with torch.no_grad():
        states = theirs.transformer(given).last_hidden_state[0].tolist()
        logits = theirs(given).logits[0].tolist()
        expected = theirs.generate(
            given, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    require_close(final_states(ours, tokens), states)
    require_close(logits_of(ours, tokens), logits, 1e-3)
    following = expected[0, len(tokens) :].tolist()
    assert continue_greedily(ours, tokens, 12) == following
    assert len(set(following)) > 1


def test_what_compares_sees_small_differences() -> None:
    require_close(torch.tensor([1.0, 2.0]), [1.00005, 2.0])
    for other in ([1.0002, 2.0], [2.0, 1.0], [float("nan"), 2.0]):
        with pytest.raises(AssertionError):
            require_close(torch.tensor([1.0, 2.0]), other)


# ---------------------------------------------------------------- what was published


@pytest.fixture(scope="module")
def models() -> dict[str, GPTModel]:
    """The last model that was loaded: two might not fit into memory."""
    return {}


def load(size: str, models: dict[str, GPTModel]) -> GPTModel:
    """A published model, from a checked file; skips where it is not at hand."""
    config = config_of(size)
    if size not in models:
        models.clear()
        models[size] = load_published_weights(config.gpt, find_weights(config)).eval()
    return models[size]


def config_of(size: str) -> ExperimentConfig:
    """Where published weights are; skips where they are not at hand."""
    folder = os.environ.get("GPT2_WEIGHTS_DIR")
    published = PUBLISHED_WEIGHTS[size]
    if not locate_published(published, Path(folder) / published.name if folder else None):
        pytest.skip(f"no weights of {published.name} in the cache or in GPT2_WEIGHTS_DIR")
    return ExperimentConfig(model_size=size, weights_dir=folder, offline=True)


@pytest.mark.slow
@pytest.mark.published
def test_the_classifier_as_it_starts() -> None:
    """Source: rasbt/LLMs-from-scratch, ch06.ipynb."""
    classifier = build_classifier(config_of(SMALL)).gpt.eval()
    published = [[-1.5854, 0.9904], [-3.7235, 7.4548], [-2.2661, 6.6049], [-3.5983, 3.9902]]
    require_close(logits_of(classifier, [5211, 345, 423, 640]), published)


@pytest.mark.slow
@pytest.mark.published
def test_states_after_the_final_norm(models: dict[str, GPTModel]) -> None:
    """Sources: elixir-nx/bumblebee, gpt2_test.exs; raven-ml/raven."""
    model = load(SMALL, models)
    states = final_states(model, [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2])
    published = [
        [-0.0436, 0.0046, -0.1025],
        [-0.4822, 0.2564, 0.1926],
        [-0.2747, 0.0428, -0.1841],
    ]
    require_close(states[1:4, 1:4], published)
    published = [-9.0888e-06, -0.1402098, -0.2084512, -0.0281115, -0.0901782]
    published += [-0.1985076, 4.0724831, -0.2489911, -0.1716857, -0.0168963]
    require_close(final_states(model, [15496, 995])[0, :10], published)


@pytest.mark.slow
@pytest.mark.published
def test_logits_of_the_language_model(models: dict[str, GPTModel]) -> None:
    """Sources: elixir-nx/bumblebee, gpt2_test.exs; mlverse/minhub, test-gpt2.R."""
    model = load(SMALL, models)
    published = [
        [-114.5832, -116.5725, -116.0830],
        [-89.8644, -93.1977, -94.4351],
        [-88.3380, -92.8703, -94.4454],
    ]
    require_close(logits_of(model, [15496, 11, 616, 3290, 318, 13779])[1:4, 1:4], published)
    published = [-53.2292, -55.5639, -58.5087, -57.6649, -59.0031]
    require_close(logits_of(model, [15496, 995, 220])[-1, :5], published)


@pytest.mark.slow
@pytest.mark.published
def test_a_greedy_continuation_in_tokens(models: dict[str, GPTModel]) -> None:
    """Source: transformers, test_modeling_gpt2.py."""
    published = [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13]
    published += [198, 198, 464, 3290]
    assert continue_greedily(load(SMALL, models), [464, 3290], 18) == published


CONTINUATIONS = {
    # Sources: rasbt/LLMs-from-scratch, ch06.ipynb; tinygrad, its GPT-2 example;
    # mikepfrank/GPT-2-tools.
    SMALL: (
        [6109, 3626, 6100, 345],
        " forward.\n\nThe first step is to understand the importance of your work",
    ),
    MEDIUM: ([15496, 13], " I'm a little late to the party, but"),
    XL: ([3041, 37393, 14492, 318], " a concept that has been around for a while, but it"),
}


@pytest.mark.slow
@pytest.mark.published
@pytest.mark.parametrize("size", CONTINUATIONS)
def test_greedy_continuations_in_words(size: str, models: dict[str, GPTModel]) -> None:
    tokens, published = CONTINUATIONS[size]
    model, encoding = load(size, models), gpt2_encoding()
    n_tokens = len(encoding.encode_ordinary(published))
    assert encoding.decode(continue_greedily(model, tokens, n_tokens)) == published
