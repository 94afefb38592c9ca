from dataclasses import replace

import pytest
import torch
from torch import nn

from ablation.classifier.build import Reading, build_classifier
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import MODEL_SIZES
from ablation.system.errors import DataError
from data_utils import Batch

TINY = ExperimentConfig(model_size="gpt2-tiny (3M)", weights="random")


def trained_names(**options: object) -> set[str]:
    model = build_classifier(replace(TINY, **options)).gpt
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_trains() -> None:
    every = set(dict(build_classifier(TINY).gpt.named_parameters()))
    head = {"head.weight", "head.bias"}
    norm = {"final_norm.weight", "final_norm.bias"}

    def block(i: int) -> set[str]:
        return {name for name in every if name.startswith(f"blocks.{i}.")}

    assert trained_names(trainable_layers="last_layer") == head
    assert trained_names(trainable_layers="last_block") == head | norm | block(3)
    assert len(block(3)) == 16
    two = trained_names(trainable_layers="last_two_blocks")
    assert two == head | norm | block(3) | block(2)
    assert trained_names(trainable_layers="all") == every


@pytest.mark.parametrize("layers", ["lora", "lora_alternative"])
def test_lora_trains_its_matrices_and_the_classifier(layers: str) -> None:
    names = trained_names(trainable_layers=layers, lora_rank=5)
    assert {name for name in names if not name.endswith((".A", ".B"))} == {
        "head.linear.weight",
        "head.linear.bias",
    }
    assert len(names) == 2 + 2 * (4 * 6 + 1)
    model = build_classifier(replace(TINY, trainable_layers=layers, lora_rank=5)).gpt
    assert model.blocks[0].attention.query.A.shape == (64, 5)


def test_random_draws_follow_the_protocol() -> None:
    """Drawn once more here, module by module."""
    config = replace(TINY, seed=7, trainable_layers="lora", lora_rank=3)
    model = build_classifier(config).gpt
    torch.manual_seed(7)
    assert torch.equal(model.token_embedding.weight, nn.Embedding(50257, 64).weight)
    assert torch.equal(model.position_embedding.weight, nn.Embedding(1024, 64).weight)
    for block in model.blocks:
        attention, feed_forward = block.attention, block.feed_forward
        for layer in (attention.query, attention.key, attention.value, attention.out_proj):
            drawn = nn.Linear(64, 64)
            assert torch.equal(layer.linear.weight, drawn.weight)
            assert torch.equal(layer.linear.bias, drawn.bias)
        assert torch.equal(feed_forward.in_proj.linear.weight, nn.Linear(64, 256).weight)
        assert torch.equal(feed_forward.out_proj.linear.weight, nn.Linear(256, 64).weight)
    torch.manual_seed(7)
    classifier = nn.Linear(64, 2)
    assert torch.equal(model.head.linear.weight, classifier.weight)
    first = nn.init.kaiming_uniform_(torch.empty(64, 3), a=5**0.5)
    assert torch.equal(model.blocks[0].attention.query.A, first)


def test_weights_from_a_file_keep_the_classifiers_draws(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier is the same with random weights and with weights from a file."""
    import transformers

    shape = MODEL_SIZES["gpt2-tiny (3M)"]
    transformers.GPT2Model(
        transformers.GPT2Config(n_embd=shape.emb_dim, n_layer=shape.n_layers, n_head=4)
    ).save_pretrained(tmp_path)
    model = build_classifier(replace(TINY, weights=str(tmp_path))).gpt
    other = build_classifier(TINY).gpt
    assert torch.equal(model.head.weight, other.head.weight)
    assert not torch.equal(model.token_embedding.weight, other.token_embedding.weight)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == trained_names()
    # gpt2-tiny's file is no gpt2-small's
    with pytest.raises(DataError, match='it seems to be "gpt2-tiny'):
        build_classifier(ExperimentConfig(weights=str(tmp_path)))


def test_causal_mask_switch() -> None:
    assert build_classifier(TINY).gpt.blocks[2].attention.causal
    unmasked = build_classifier(replace(TINY, disable_causal_mask=True)).gpt
    assert not unmasked.blocks[2].attention.causal


@pytest.mark.parametrize(
    ("position", "average", "expected"),
    [  # logits of text b at position t are (10 b + t, -t); lengths are 2 and 4
        ("first", False, [[0, 0], [10, 0]]),
        ("last", False, [[3, -3], [13, -3]]),
        ("flexible", False, [[1, -1], [13, -3]]),
        ("first", True, [[1.5, -1.5], [11.5, -1.5]]),
        ("last", True, [[1.5, -1.5], [11.5, -1.5]]),
        ("flexible", True, [[0.5, -0.5], [11.5, -1.5]]),
    ],
)
def test_what_is_read(position: str, average: bool, expected: list) -> None:
    times = torch.arange(4.0)
    logits = torch.stack([torch.stack([10.0 * b + times, -times], dim=1) for b in range(2)])
    reading = Reading(position, average)
    batch = Batch(torch.zeros(2, 4), torch.tensor([2, 4]), torch.tensor([4, 4]), torch.zeros(2))
    assert reading.select(logits, batch).tolist() == expected
    decisive = reading.n_needed(batch)
    for b, n in enumerate(decisive.tolist()):
        changed = logits.clone()
        changed[b, n:] = 99
        assert reading.select(changed, batch).tolist() == expected
        changed[b, n - 1] = 99
        assert reading.select(changed, batch).tolist() != expected
    unmasked = replace(reading, causal=False)
    assert unmasked.n_needed(batch).tolist() == [4, 4]
