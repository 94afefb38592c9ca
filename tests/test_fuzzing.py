"""Flags and texts that nobody would think of."""

import os
from pathlib import Path

import pytest
from helpers import config_from_flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablation.classifier.saved_models import SavedClassifier, load_classifier
from ablation.config.flag_types import Number
from ablation.config.options import OPTIONS, ExperimentConfig
from ablation.config.rules import config_problems
from ablation.config.runs import OutputOptions
from ablation.data.demo import byte_encoding
from ablation.data.vocabulary import gpt2_encoding
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from additional_experiments import main
from data_utils import PADDING_TOKEN, EncodedTexts, encode_texts

pytestmark = pytest.mark.slow

UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
# Any Unicode but lone surrogates, which are no text.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5_000)
SHORT_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def values(name: str) -> st.SearchStrategy:
    """Values of an option, good and bad ones."""
    option = OPTIONS[name]
    if option.values is None:
        return st.just(True)
    if getattr(option.values, "names", ()) and not isinstance(option.values, Number):
        return st.sampled_from([*option.values.names, "nothing", ""])
    if isinstance(option.values, Number) and not option.values.names:
        return st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, 2, 8, 0.5]))
    return st.one_of(SHORT_TEXTS, st.sampled_from(["random", "model_context_length", "12", "2"]))


CONFIGS = st.sets(st.sampled_from(list(OPTIONS)), max_size=8).flatmap(
    lambda names: st.fixed_dictionaries({name: values(name) for name in sorted(names)})
)


@pytest.mark.faults("flags by Hypothesis", 400)
@settings(max_examples=400, **UNHURRIED)
@given(CONFIGS)
def test_any_options_are_checked(options: dict) -> None:
    for problem in config_problems(ExperimentConfig(**options)):
        assert problem.flag.startswith("--")


@pytest.mark.faults("flags by Hypothesis", 200)
@settings(max_examples=200, **UNHURRIED)
@given(CONFIGS, st.lists(SHORT_TEXTS, max_size=2))
def test_any_command_line_is_answered(options: dict, words: list[str]) -> None:
    flags = [
        part
        for name, value in options.items()
        for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    words = [word for word in words if word not in ("-h", "--help")]
    assert main([*flags, *words, "--dry_run"]) in (0, 2)


RUNNABLE = st.fixed_dictionaries(
    {},
    optional={
        "--trainable_layers": st.sampled_from(["last_layer", "last_block", "all", "lora"]),
        "--trainable_token_pos": st.sampled_from(["first", "last", "flexible"]),
        "--context_length": st.sampled_from(["1", "7", "90"]),
        "--accumulation_steps": st.sampled_from(["1", "3"]),
        "--batch_size": st.sampled_from(["1", "8", "33"]),
        "--precision": st.sampled_from(["fp32", "bf16"]),
        "--average_embeddings": st.none(),
        "--disable_causal_mask": st.none(),
        "--no_feature_reuse": st.none(),
        "--save_model": st.none(),
    },
)


@pytest.mark.faults("runs by Hypothesis", 25)
@settings(max_examples=25, **UNHURRIED)
@given(flags=RUNNABLE)
def test_what_is_allowed_runs(flags: dict[str, str | None]) -> None:
    words = [word for pair in flags.items() for word in pair if word]
    assert main(["--demo", "--max_steps", "2", "--eval_iter", "1", *words]) == 0


def require_same_tokens(text: str, encoding: object) -> None:
    (tokens,) = encode_texts([text], encoding)
    assert tokens
    if not text:
        assert tokens == [PADDING_TOKEN]
        return
    assert PADDING_TOKEN not in tokens
    assert encoding.decode_bytes(tokens) == text.encode()
    batch = EncodedTexts([tokens, tokens[:1]], [0, 1], len(tokens) + 3)[0]
    assert batch.inputs[0, : len(tokens)].tolist() == tokens
    assert set(batch.inputs[0, len(tokens) :].tolist()) == {PADDING_TOKEN}


@pytest.mark.faults("texts by Hypothesis", 200)
@settings(max_examples=200, **UNHURRIED)
@given(TEXTS)
def test_any_text_becomes_its_tokens(text: str) -> None:
    require_same_tokens(text, byte_encoding())
    if "TIKTOKEN_CACHE_DIR" in os.environ:
        require_same_tokens(text, gpt2_encoding())


@pytest.fixture(scope="module", params=["", "--disable_causal_mask", "--average_embeddings"])
def classifier(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SavedClassifier:
    folder: Path = tmp_path_factory.mktemp("saved")
    flags = ["--demo", "--max_steps", "3", *request.param.split()]
    run_experiment(config_from_flags(flags), output=OutputOptions(folder, save_model=True))
    return load_classifier(folder, {})


@pytest.mark.faults("texts by Hypothesis", 40)
@settings(max_examples=40, **UNHURRIED)
@given(texts=st.lists(TEXTS, max_size=5))
def test_any_texts_are_classified(classifier: SavedClassifier, texts: list[str]) -> None:
    together = list(classify_texts(classifier, byte_encoding(), texts))
    assert [prediction.text for prediction in together] == texts
    for text, found in zip(texts, together, strict=True):
        (alone,) = classify_texts(classifier, byte_encoding(), [text])
        assert alone.probability == pytest.approx(found.probability, abs=1e-6)
        assert 0.5 - 1e-9 <= found.probability <= 1
