"""The project against an independent implementation of the protocol, and against its logs."""

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import plain_protocol
import pytest

from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.sizes import MODEL_SIZES, GPTConfig
from ablation.data import corpora
from ablation.data.demo import byte_encoding
from ablation.data.sms import split_messages
from ablation.finetuning.experiment import run_experiment
from additional_experiments import main

TINY = {"model_size": "gpt2-tiny (3M)", "weights": "random"}
SHORT = {**TINY, "demo": True, "num_epochs": 2, "eval_freq": 2, "eval_iter": 2}


def describe(flags: dict) -> str:
    return " ".join(f"{k}={v}" for k, v in flags.items() if k not in TINY) or "row 1"


# The rows, their models made tiny, which makes some of them equal; and combinations of no row.
COMBINATIONS = [
    *{describe(row.flags): {**row.flags, **TINY} for row in ROWS.values()}.values(),
    {"trainable_layers": "all", "no_feature_reuse": True},
    {"trainable_token_pos": "flexible", "no_feature_reuse": True},
    {"no_padding": True, "batch_size": 1, "accumulation_steps": 3, "no_feature_reuse": True},
    {"average_embeddings": True, "disable_causal_mask": True, "no_feature_reuse": True},
    {"trainable_token_pos": "flexible", "average_embeddings": True, "disable_causal_mask": True},
    {"trainable_token_pos": "first", "average_embeddings": True, "trainable_layers": "all"},
    {"trainable_token_pos": "flexible", "context_length": 40, "trainable_layers": "last_layer"},
    {"trainable_layers": "lora_alternative", "lora_rank": 2, "lora_alpha": 3, "seed": 5},
    {"no_padding": True, "batch_size": 1, "average_embeddings": True, "context_length": 60},
    {"no_padding": True, "batch_size": 1, "trainable_token_pos": "first", "seed": 0},
    {"no_padding": True, "batch_size": 1, "accumulation_steps": 5, "trainable_layers": "all"},
    {"accumulation_steps": 2, "batch_size": 5, "learning_rate": 1e-3, "weight_decay": 0.5},
    {"accumulation_steps": 100, "batch_size": 7, "ignore_index": 1, "num_epochs": 3},
    {"class_weights": "balanced", "accumulation_steps": 3, "batch_size": 5},
    {"class_weights": "balanced", "trainable_layers": "all", "ignore_index": 1},
    {"keep_best": True, "learning_rate": 2e-3, "num_epochs": 6, "batch_size": 5},
    {"keep_best": True, "stop_after": 2, "learning_rate": 2e-3, "num_epochs": 6, "batch_size": 5},
    {"stop_after": 1, "trainable_layers": "lora", "learning_rate": 2e-3, "num_epochs": 3},
    {"context_length": 200, "disable_causal_mask": True, "trainable_layers": "last_two_blocks"},
]


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(flags, marks=pytest.mark.slow)
        if flags.get("context_length") == "model_context_length"  # 1024 tokens a text
        else flags
        for flags in COMBINATIONS
    ],
    ids=describe,
)
def test_equals_the_plain_implementation(
    flags: dict,
    few_messages: pd.DataFrame,
    resize: Callable[[str, GPTConfig], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = {**SHORT, **flags, "weights": "random"}
    if flags.get("batch_size") == 1:  # so many steps that few evaluations show all there is
        flags |= {"eval_freq": 7, "eval_iter": 3}
    if flags.get("context_length") == "model_context_length":
        # Long texts take the plain implementation long, so there are fewer of them.
        flags |= {"num_epochs": 1, "eval_freq": 100, "eval_iter": 1, "batch_size": 4}
        few_messages = pd.concat([few_messages[:6], few_messages[-6:]])
    # A block less, and half as wide, is as much of a GPT-2.
    resize(TINY["model_size"], GPTConfig(emb_dim=32, n_layers=3, n_heads=4))
    monkeypatch.setattr(corpora, "demo_messages", lambda: few_messages)
    config = ExperimentConfig(**flags)
    result = run_experiment(config)

    splits, encoding = vars(split_messages(few_messages)), byte_encoding()
    texts = {part: [encoding.encode(t) for t in splits[part]["Text"]] for part in splits}
    labels = {part: splits[part]["Label"].tolist() for part in splits}
    shape = MODEL_SIZES[config.model_size]
    options = {**asdict(config), **asdict(shape), "context_length": config.context_length}
    expected = plain_protocol.run(texts, labels, options)

    losses = [entry[1:] for entry in expected if entry[0] == "losses"]
    found = [(record.train, record.validation) for record in result.history.losses]
    assert found == [pytest.approx(pair, abs=2e-4) for pair in losses]
    accuracies = [entry[1:] for entry in expected if entry[0] == "accuracies"]
    counts = [tuple((a.correct, a.total) for a in p) for p in result.history.epoch_accuracies]
    assert counts == accuracies
    whole = [entry[1:] for entry in expected if entry[0] == "whole"]
    if config.keep_best or config.stop_after:
        found = [(v.accuracy.correct, v.loss) for v in result.history.validations]
        assert found == [(correct, pytest.approx(loss, abs=2e-4)) for correct, loss in whole]
    final = [(a.correct, a.total) for a in vars(result.accuracy).values()]
    assert final == list(expected[-1][1:])


LOSSES = re.compile(r"Ep (\d+) \(Step (\d{6})\): Train loss (\d\.\d{3}), Val loss (\d\.\d{3})")
PERCENT = re.compile(r"(\d+\.\d\d)%")


@pytest.mark.slow
@pytest.mark.parametrize("row", [1, 11, 16])
def test_reference_logs(row: int, real_data_dir: Path, capsys: pytest.CaptureFixture) -> None:
    log = Path(os.environ["SPAM_TEST_DATA"]).parent / "reference_logs" / f"tiny_row{row:02}.txt"
    if not log.exists():
        pytest.skip(f"no reference log beside the real data for row {row}")
    flags = ["--rows", str(row), "--weights", "random", "--model_size", TINY["model_size"]]
    assert main([*flags, "--data_dir", str(real_data_dir)]) == 0
    lines, expected = capsys.readouterr().out.splitlines(), log.read_text().splitlines()
    assert len(lines) == len(expected)
    for line, expected_line in zip(lines[:-3], expected[:-3], strict=True):
        if match := LOSSES.fullmatch(expected_line):
            found = LOSSES.fullmatch(line)
            assert found, line
            assert found.groups()[:2] == match.groups()[:2]
            for ours, theirs in zip(found.groups()[2:], match.groups()[2:], strict=True):
                assert abs(float(ours) - float(theirs)) <= 0.002 + 1e-9, line
    for line, expected_line, total in zip(lines[-3:], expected[-3:], (1040, 149, 300), strict=True):
        assert line.split(":")[0] == expected_line.split(":")[0]
        ours, theirs = (float(PERCENT.search(text)[1]) for text in (line, expected_line))
        assert abs(ours - theirs) <= 100 / total + 0.01, line
