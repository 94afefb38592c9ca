import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ablation.classifier.build import build_classifier
from ablation.config.options import ExperimentConfig
from ablation.finetuning import forecast as module
from ablation.finetuning.experiment import make_schedule
from ablation.finetuning.forecast import (
    Forecast,
    PassCost,
    announce_if_long,
    describe,
    forecast,
    measure_pass,
)
from ablation.finetuning.frozen_features import prepare_inputs
from ablation.finetuning.memory import count_positions
from ablation.finetuning.training import classify_texts, train
from data_utils import EncodedTexts, Splits, make_loaders

TINY = ExperimentConfig(
    model_size="gpt2-tiny (3M)", weights="random", device="cpu", max_steps=7, eval_freq=3
)
N_TEXTS, N_TOKENS = Splits(24, 8, 16), 6


def all_different(n: int, first: int) -> EncodedTexts:
    tokens = [[first + i, *range(1, N_TOKENS)] for i in range(n)]
    return EncodedTexts(tokens, [i % 2 for i in range(n)], N_TOKENS)


TEXTS = Splits(all_different(24, 100), all_different(8, 200), all_different(16, 300))


class Counter:
    """Tokens that go forward and backward through the blocks of a model."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.forward = self.backward = 0
        for block in blocks:
            block.register_forward_hook(self._count_forward)

    def _count_forward(self, block: nn.Module, _: object, hidden: Tensor) -> None:
        self.forward += hidden[..., 0].numel()
        if hidden.requires_grad:
            hidden.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward += gradient[..., 0].numel()


@pytest.mark.parametrize(
    ("trains", "options"),
    [
        ("last_layer", {}),
        ("last_block", {}),
        ("last_two_blocks", {}),
        ("last_two_blocks", {"average_embeddings": True}),
        ("last_block", {"no_feature_reuse": True}),
        ("last_two_blocks", {"accumulation_steps": 2, "max_steps": None, "num_epochs": 2}),
        ("all", {"eval_iter": 1}),
        ("last_two_blocks", {"keep_best": True, "max_steps": None, "num_epochs": 2}),
        ("lora", {"max_steps": 4}),
    ],
)
def test_the_tokens_are_those_that_pass_the_blocks(trains: str, options: dict[str, object]) -> None:
    """With a second for a token, a run takes as many as hooks count in one."""
    config = replace(TINY, trainable_layers=trains, **options)
    schedule, classifier = make_schedule(config), build_classifier(config)
    n_positions = count_positions(TEXTS, config)[1]
    assert n_positions == 48 * N_TOKENS
    cost = PassCost(0, 1)
    expected = forecast(config, schedule, N_TEXTS, n_positions, cost, tokens_at_once=1024)
    counter = Counter(classifier.gpt.blocks)
    loaders = make_loaders(prepare_inputs(classifier, TEXTS), config.batch_size)
    assert counter.forward == pytest.approx(expected.states)
    counter.forward = 0
    train(classifier, loaders, schedule)
    backward = 1 if trains == "lora" else 2
    assert counter.forward + backward * counter.backward == pytest.approx(expected.training)
    counter.forward = 0
    loaders.map(lambda loader: classify_texts(classifier, loader))
    assert counter.forward == pytest.approx(expected.evaluation)


def test_passes_have_a_time_of_their_own() -> None:
    """Three blocks in batches of 96 tokens, then steps of the last with one query a text."""
    config = replace(TINY, trainable_layers="last_block")
    found = forecast(config, make_schedule(config), N_TEXTS, 48 * 6, PassCost(1, 0), 96)
    assert found.states == 3 * (48 * 6 / 96)
    n_evaluated = 3 + 1  # batches of the training and the validation part
    n_times = 3 + 3  # steps 0, 3 and 6; the ends of three epochs
    assert found.training == 7 * 3 + n_times * n_evaluated
    assert found.evaluation == 3 + 1 + 2


def test_two_passes_give_both_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_time_pass", lambda _, n, length: 0.5 + 0.25 * n * length)
    cost = measure_pass(build_classifier(TINY), 30, 512)
    assert (cost.fixed, cost.per_token) == (0.5, 0.25)


def test_a_long_run_is_described() -> None:
    assert describe(Forecast(3 * 3600, 1500, 20), 7.14e9, 9.2e9, 1.1e9) == (
        "From the start, this takes about 3.4 h at the speed just measured: 3.0 h for hidden "
        "states (less where some are there already), 25 min for training. It needs 7.1 GB of "
        "memory, 9.2 GB of disk while it runs (--feature_memory), up to 1.1 GB in "
        "--feature_store. Fewer texts or a smaller --model_size take less."
    )
    assert "disk" not in describe(Forecast(0, 1500, 20), 7e9, 0, 0)


@pytest.mark.parametrize(("per_token", "is_said"), [(0.01, False), (10.0, True)])
def test_only_long_runs_are_announced(
    per_token: float,
    is_said: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = replace(TINY, trainable_layers="last_block")
    classifier, before = build_classifier(config), torch.get_rng_state()
    announce_if_long(classifier, make_schedule(config), TEXTS, config)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(module, "measure_pass", lambda *_: PassCost(0, per_token))
    with caplog.at_level(logging.INFO, "experiments"):
        announce_if_long(classifier, make_schedule(config), TEXTS, config)
    assert ("at the speed just measured" in caplog.text) == is_said


@pytest.mark.parametrize(
    ("options", "free", "said"),
    [
        ({"feature_memory": 0.0}, 10**12, "0.5 GB of memory, 0.1 GB of disk while it runs"),
        ({"feature_memory": 0.0}, 0, None),
        ({}, 10**12, "0.6 GB of memory, up to 0.1 GB in --feature_store"),
        ({"feature_store": "off"}, 10**12, "0.6 GB of memory. Fewer"),
        ({"feature_store_gb": 0.04}, 10**12, "up to 0.0 GB in --feature_store"),
    ],
)
def test_states_are_where_they_will_be(
    options: dict[str, object],
    free: int,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """288 positions in a model of 64 numbers, as if there were 400,000."""
    config = replace(TINY, trainable_layers="last_block", **options)
    monkeypatch.setattr(module, "measure_pass", lambda *_: PassCost(0, 10.0))
    monkeypatch.setattr(module, "count_positions", lambda *_: (N_TOKENS, 400_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with caplog.at_level(logging.INFO, "experiments"):
        announce_if_long(build_classifier(config), make_schedule(config), TEXTS, config)
    if said:
        assert said in caplog.text
    else:
        assert "hidden states" not in caplog.text, "all blocks run in every step"
        assert "disk" not in caplog.text


def test_large_batches_do_not_hide_what_a_token_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(module, "_time_pass", lambda _, n, length: seen.append(n * length) or 1.0)
    config = replace(TINY, batch_size=24, trainable_layers="all")
    announce_if_long(build_classifier(config), make_schedule(config), TEXTS, config)
    assert max(seen) >= 8 * min(seen)
