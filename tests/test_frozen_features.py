"""The fast path against the plain one, in float64, and what it may and may not reuse."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from ablation.classifier.build import GPTClassifier, build_classifier
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import GPTConfig
from ablation.data.demo import byte_encoding
from ablation.data.sms import split_messages
from ablation.finetuning import frozen_features
from ablation.finetuning.frozen_features import HiddenStates, count_frozen_blocks, prepare_inputs
from ablation.finetuning.losses import Loss
from ablation.finetuning.text_states import TextStates
from ablation.finetuning.training import _backward, group_batches
from ablation.system.errors import HiddenStateError
from data_utils import EncodedTexts, Splits, encode_splits, make_loaders, merge_batches
from gpt_model import GPTModel

TINY = ExperimentConfig(model_size="gpt2-tiny (3M)", weights="random", demo=True, batch_size=3)
GRID = {
    "trainable_token_pos": ("first", "last", "flexible"),
    "trainable_layers": ("last_layer", "last_block", "last_two_blocks", "all", "lora"),
    "disable_causal_mask": (False, True),
    "no_padding": (False, True),
    "average_embeddings": (False, True),
}


@pytest.fixture(scope="module")
def few_splits(few_messages: pd.DataFrame) -> Splits[pd.DataFrame]:
    splits = split_messages(few_messages)
    # Equal texts, a text that is the beginning of another, an empty text.
    texts = pd.DataFrame(
        {"Label": [0, 1, 0, 1, 0, 1], "Text": ["free cash", "free", "", "free", "win it now", "x"]}
    )
    return Splits(texts, splits.validation, texts[::-1].reset_index(drop=True))


def model_and_texts(
    config: ExperimentConfig, splits: Splits[pd.DataFrame]
) -> tuple[GPTClassifier, Splits[EncodedTexts]]:
    model = build_classifier(config).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".B", "bias")):  # these start at zero, or small
                parameter.normal_(std=0.1)
    return model, encode_splits(splits, byte_encoding(), config)


def plain_path(model: GPTClassifier) -> GPTClassifier:
    """The same model, of which no work is reused."""
    return GPTClassifier(model.gpt, replace(model.reading, reuse=False), model.precision)


def gradients_and_logits(
    model: GPTClassifier, texts: Splits[EncodedTexts], n: int
) -> dict[str, torch.Tensor]:
    model.zero_grad()
    inputs = prepare_inputs(model, texts)
    model.train()
    batches = [inputs.train.__getitems__(list(range(i, min(i + n, 6)))) for i in range(0, 6, n)]
    results = {}
    for i, batch in enumerate(batches):
        logits = model(batch)
        results[f"logits of batch {i}"] = logits.detach()
        F.cross_entropy(logits, batch.labels).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            results[name] = parameter.grad
    return results


@pytest.mark.parametrize("choices", list(product(*GRID.values())), ids=str)
def test_fast_equals_plain(
    choices: tuple,
    few_splits: Splits[pd.DataFrame],
    resize: Callable[[str, GPTConfig], None],
) -> None:
    # A quarter as wide, with as many blocks.
    resize(TINY.model_size, GPTConfig(emb_dim=16, n_layers=4, n_heads=4))
    options = dict(zip(GRID, choices, strict=True))
    config = replace(TINY, **options, batch_size=1 if options["no_padding"] else 3)
    model, texts = model_and_texts(config, few_splits)
    fast = gradients_and_logits(model, texts, config.batch_size)
    plain = gradients_and_logits(plain_path(model), texts, config.batch_size)
    assert fast.keys() == plain.keys()
    for name, expected in plain.items():
        found = fast[name]
        # A gradient that is zero in exact arithmetic (a key's bias; all of a query that sees
        # one token) is only rounding.
        scale = max(float(expected.abs().max()), 1e-3)
        assert float((found - expected).abs().max()) <= 1e-10 * scale, name


@pytest.mark.parametrize(
    ("layers", "n_blocks"),
    [("last_layer", 4), ("last_block", 3), ("last_two_blocks", 2), ("all", 0), ("lora", 0)],
)
def test_what_is_reused_follows_from_what_trains(
    layers: str, n_blocks: int, few_splits: Splits[pd.DataFrame]
) -> None:
    config = replace(TINY, trainable_layers=layers)
    model, texts = model_and_texts(config, few_splits)
    assert count_frozen_blocks(model.gpt) == n_blocks
    inputs = prepare_inputs(model, texts)
    assert isinstance(inputs.train, HiddenStates if n_blocks else EncodedTexts)
    assert prepare_inputs(plain_path(model), texts) is texts


def test_custom_choices(few_splits: Splits[pd.DataFrame]) -> None:
    model, _ = model_and_texts(TINY, few_splits)
    gpt = model.gpt
    gpt.blocks[1].norm2.bias.requires_grad_(True)
    assert count_frozen_blocks(model.gpt) == 1
    gpt.position_embedding.weight.requires_grad_(True)
    assert count_frozen_blocks(model.gpt) == 0


def test_only_what_is_needed_is_computed(
    few_splits: Splits[pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts have 9, 4, 1, 4, 10 and 1 tokens; the validation texts have more."""
    seen = []
    embed = GPTModel.embed

    def spy(model: GPTModel, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tokens.shape))
        return embed(model, tokens)

    monkeypatch.setattr(GPTModel, "embed", spy)
    monkeypatch.setitem(frozen_features.TOKENS_PER_BATCH, "cpu", 20)

    def shapes(**options: object) -> list[tuple[int, int]]:
        config = replace(TINY, context_length=10, **options)
        model, texts = model_and_texts(config, few_splits)
        seen.clear()
        prepare_inputs(model, texts)
        return seen.copy()

    n_different = 5 + 4  # "free" counts once, and test is train in reverse
    assert shapes() == [(2, 10)] * 4 + [(1, 10)]
    first = shapes(trainable_token_pos="first")
    assert sum(rows for rows, _ in first) < n_different, "equal first tokens count once"
    assert {width for _, width in first} == {1}
    flexible = shapes(trainable_token_pos="flexible")
    assert sum(rows for rows, _ in flexible) == n_different
    assert flexible[0] == (3, 4), "similar lengths go together"
    unmasked = shapes(no_padding=True, batch_size=1, disable_causal_mask=True)
    assert (1, 4) in unmasked
    assert (2, 1) in unmasked, "without the mask, only equal lengths go together"


def test_merged_batches_are_what_they_were(few_splits: Splits[pd.DataFrame]) -> None:
    config = replace(TINY, no_padding=True, batch_size=1, accumulation_steps=6)
    model, texts = model_and_texts(config, few_splits)
    inputs = prepare_inputs(model, texts)
    batches = [inputs.train[i] for i in range(6)]
    one_by_one = torch.cat([model(batch) for batch in batches])
    together = merge_batches(batches)
    merged = model(together)
    torch.testing.assert_close(merged, one_by_one, rtol=1e-10, atol=1e-12)
    assert together.labels.tolist() == texts.train.labels.tolist()
    gradients, loss = [], Loss(class_weights=torch.tensor([0.6, 3.0]))
    for path in (model, plain_path(model)):
        inputs = prepare_inputs(path, texts)
        model.zero_grad()
        window = [inputs.train[i] for i in range(6)]
        groups = list(group_batches(window, path))
        assert len(groups) == (1 if path.reading.reuse else 6)
        for group in groups:
            _backward(path, group, len(window), loss, step=0)
        gradients.append(model.gpt.blocks[3].feed_forward.in_proj.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_states_on_disk_are_the_same(
    few_splits: Splits[pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    model, texts = model_and_texts(TINY, few_splits)
    in_memory = prepare_inputs(model, texts).train
    assert caplog.text == ""
    on_disk = prepare_inputs(model, texts, memory=0.0).train
    assert "keeping them on disk" in caplog.text
    assert torch.equal(on_disk.states, in_memory.states)
    logits = [model(states.__getitems__([0, 4])) for states in (in_memory, on_disk)]
    assert torch.equal(*logits)


def test_states_that_fit_nowhere_are_not_kept(
    few_splits: Splits[pd.DataFrame],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    model, texts = model_and_texts(TINY, few_splits)
    inputs = prepare_inputs(model, texts, memory=0.0)
    assert isinstance(inputs.train, EncodedTexts)
    assert "computing them at every step" in caplog.text


@pytest.mark.parametrize(
    ("block", "place"), [(-1, "after the embedding"), (1, "after block 2 of 4")]
)
def test_states_that_are_not_finite_name_the_block(
    block: int, place: str, few_splits: Splits[pd.DataFrame]
) -> None:
    model, texts = model_and_texts(TINY, few_splits)
    gpt = model.gpt
    module = gpt.position_embedding if block < 0 else gpt.blocks[block].feed_forward.in_proj
    with torch.no_grad():
        module.weight[0, 0] = torch.inf
    with pytest.raises(HiddenStateError, match=place):
        prepare_inputs(model, texts)


def test_the_same_batches_in_the_same_order(few_splits: Splits[pd.DataFrame]) -> None:
    model, texts = model_and_texts(TINY, few_splits)
    orders = []
    for path in (model, plain_path(model)):
        loaders = make_loaders(prepare_inputs(path, texts), 2)
        torch.manual_seed(3)
        orders.append([batch.labels.tolist() for _ in range(3) for batch in loaders.train])
    assert orders[0] == orders[1]


@pytest.mark.parametrize("layers", ["last_block", "all", "lora"])
def test_bfloat16_is_close(layers: str, few_splits: Splits[pd.DataFrame]) -> None:
    logits = {}
    for precision in ("fp32", "bf16"):
        config = replace(TINY, trainable_layers=layers, precision=precision)
        model = build_classifier(config)
        texts = encode_splits(few_splits, byte_encoding(), config)
        inputs = prepare_inputs(model, texts)
        logits[precision] = model(inputs.train.__getitems__([0, 1, 2])).detach()
        trained = {p.dtype for p in model.parameters() if p.requires_grad}
        frozen = {p.dtype for p in model.gpt.blocks[0].parameters() if not p.requires_grad}
        assert trained == {torch.float32}
        assert (torch.bfloat16 in frozen) == (precision == "bf16" and layers != "all")
        assert logits[precision].dtype == torch.float32
    assert not torch.equal(logits["fp32"], logits["bf16"])
    torch.testing.assert_close(logits["bf16"], logits["fp32"], rtol=0, atol=0.05)


@pytest.mark.parametrize("position", ["first", "last", "flexible"])
@pytest.mark.parametrize("unmasked", [False, True])
def test_windows_of_states_are_read_as_one(
    position: str,
    unmasked: bool,
    few_splits: Splits[pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(
        TINY,
        trainable_layers="last_layer",
        trainable_token_pos=position,
        disable_causal_mask=unmasked,
    )
    model, texts = model_and_texts(config, few_splits)
    whole = prepare_inputs(model, texts)
    seen = []
    make_room = TextStates.make_room

    def spy(self: TextStates, *arguments: object) -> bool:
        seen.append(len(self))
        return make_room(self, *arguments)

    monkeypatch.setattr(TextStates, "make_room", spy)
    monkeypatch.setattr(frozen_features, "WINDOW_BYTES", 20 * 64 * 8)
    windows = prepare_inputs(model, texts)
    n_texts = sum(map(len, vars(whole).values()))
    assert whole.train.states.shape[0] <= n_texts, "one state of each different text"
    for part, other in zip(vars(windows).values(), vars(whole).values(), strict=True):
        everything = list(range(len(part)))
        torch.testing.assert_close(part.inputs(everything), other.inputs(everything))
    assert (position == "first" and not unmasked) or len(seen) > 3
    longest = int(texts.test.padded_lengths.max())
    assert max(seen) <= 20 + longest
