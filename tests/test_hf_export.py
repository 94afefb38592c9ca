import json
import os
import random
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from ablation.classifier import export
from ablation.classifier.build import LORA_LAYERS, GPTClassifier, Reading, build_classifier
from ablation.classifier.export import export_hf, require_export_folder
from ablation.config.options import ExperimentConfig
from ablation.config.rules import export_problems
from ablation.config.sizes import PUBLISHED_WEIGHTS, GPTConfig
from ablation.data.demo import byte_encoding, byte_vocabulary
from ablation.data.vocabulary import gpt2_encoding, vocabulary_files
from ablation.system.errors import ExportError
from data_utils import PADDING_TOKEN, EncodedTexts
from gpt_model import GPTModel

SIZE = "gpt2-small (124M)"  # its name, for which weights were published, but not its size
CONFIG = ExperimentConfig(model_size=SIZE, weights="random", trainable_token_pos="flexible")
NAMES = ("ham", "spam", "neither")
# The last one is a text without tokens.
TOKENS = [[5, 6, 7], [8], [50255, 3, 1000, 3], list(range(100, 120)), [256], [PADDING_TOKEN]]
TEXTS = ["Win £100 now!!", "see you\n\n at 6 😀", " ", "x" * 100, "<|endoftext|>", "né à Ürümqi"]


@pytest.fixture(autouse=True)
def small_size(resize: Callable[[str, GPTConfig], None]) -> None:
    resize(SIZE, GPTConfig(emb_dim=16, n_layers=2, n_heads=4, context_length=32))


@torch.no_grad()
def trained_classifier(config: ExperimentConfig, n_classes: int = 2) -> GPTModel:
    """A classifier, every parameter that trains moved at random, biases and norms too."""
    model = build_classifier(config).gpt
    if n_classes != 2:
        model.head = nn.Linear(config.gpt.emb_dim, n_classes)
        if config.uses_lora:
            form = LORA_LAYERS[config.trainable_layers]
            model.head = form(model.head, config.lora_rank, config.lora_alpha)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@torch.no_grad()
def our_probabilities(
    model: GPTModel, config: ExperimentConfig, tokens: Sequence[list[int]] = TOKENS
) -> Tensor:
    """Those (N, C) that the project gives on its own batches."""
    classifier = GPTClassifier(model, Reading.of(config), config.precision)
    every = list(range(len(tokens)))
    width = None if config.no_padding else max(map(len, tokens)) + 3
    texts = EncodedTexts(tokens, every, width)
    batches = [[b] for b in every] if config.no_padding else [every]
    logits = [classifier(texts.__getitems__(batch)) for batch in batches]
    return torch.cat(logits).softmax(dim=-1)


@torch.no_grad()
def their_probabilities(model: nn.Module, tokens: Sequence[list[int]] = TOKENS) -> Tensor:
    """Those (N, C) that transformers gives on one batch, and, as asserted, on single texts."""
    texts = EncodedTexts(tokens, [0] * len(tokens), max(map(len, tokens)) + 1)
    ids = texts.inputs(range(len(texts)))
    mask = torch.arange(ids.shape[1]) < texts.lengths[:, None]
    batched = model(input_ids=ids, attention_mask=mask.long()).logits
    single = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in tokens])
    torch.testing.assert_close(batched, single, rtol=0, atol=1e-5)
    return batched.softmax(dim=-1)


def load(folder: Path) -> nn.Module:
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.std(dim=0).min() > 0.01  # else there would be nothing to compare
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- probabilities


@pytest.mark.parametrize(
    ("options", "n_classes"),
    [
        ({"trainable_layers": "last_block"}, 2),
        ({"trainable_layers": "all"}, 3),
        ({"trainable_layers": "all", "trainable_token_pos": "last", "no_padding": True}, 2),
        ({"trainable_layers": "last_block", "no_padding": True}, 3),
        ({"trainable_layers": "lora", "lora_rank": 3, "lora_alpha": 2.5}, 2),
        ({"trainable_layers": "lora", "no_padding": True}, 3),
        ({"trainable_layers": "lora_alternative", "lora_rank": 2, "lora_alpha": 16}, 3),
        ({"trainable_layers": "all", "no_feature_reuse": True}, 2),
    ],
)
def test_probabilities_equal_transformers(tmp_path: Path, options: dict, n_classes: int) -> None:
    config = replace(CONFIG, batch_size=1, **options)
    model = trained_classifier(config, n_classes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    export_hf(model, config, NAMES[:n_classes], 32, tmp_path / "hf")
    assert_same(our_probabilities(model, config), their_probabilities(load(tmp_path / "hf")))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), random_state)
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert files == {"config.json", "model.safetensors"} | (
        {"adapter"} if config.uses_lora else set()
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "hf"]


def test_frozen_bfloat16_weights_are_exported_as_float32(tmp_path: Path) -> None:
    config = replace(CONFIG, trainable_layers="lora", precision="bf16")
    model = trained_classifier(config)
    assert model.token_embedding.weight.dtype == torch.bfloat16
    export_hf(model, config, NAMES[:2], 32, tmp_path / "hf")
    theirs = load(tmp_path / "hf")
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float32}
    ours = our_probabilities(model.float(), replace(config, precision="fp32"))
    assert_same(ours, their_probabilities(theirs))


def test_logits_keep_what_the_bias_gave_them(tmp_path: Path) -> None:
    model = trained_classifier(CONFIG, 3)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([3.0, -2.0, 4.0]))
    export_hf(model, CONFIG, NAMES, 32, tmp_path / "hf")
    tokens = torch.tensor([TOKENS[0]])
    with torch.no_grad():
        theirs = load(tmp_path / "hf")(input_ids=tokens).logits
        torch.testing.assert_close(model(tokens)[:, -1], theirs, rtol=0, atol=1e-5)


def test_config_says_what_the_model_is(tmp_path: Path) -> None:
    export_hf(trained_classifier(CONFIG, 3), CONFIG, NAMES, 32, tmp_path / "hf")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: i for i, name in enumerate(NAMES)}
    assert (config.n_positions, config.pad_token_id) == (32, PADDING_TOKEN)
    assert (config.embd_pdrop, config.resid_pdrop, config.attn_pdrop) == (0, 0, 0)


@pytest.mark.parametrize("spoilt", ["dependent", "infinite"])
def test_a_bias_that_cannot_be_folded_is_refused(tmp_path: Path, spoilt: str) -> None:
    model = trained_classifier(CONFIG)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([1.0, torch.inf if spoilt == "infinite" else 2.0]))
        if spoilt == "dependent":
            model.head.weight[1] = -2 * model.head.weight[0]
    with pytest.raises(ExportError, match="bias"):
        export_hf(model, CONFIG, NAMES[:2], 32, tmp_path / "hf")
    assert not list(tmp_path.iterdir())


EXPORT_AND_MEASURE = """
import resource, sys
from pathlib import Path
from ablation.classifier.build import build_classifier
from ablation.config.options import ExperimentConfig
from ablation.classifier.export import export_hf
config = ExperimentConfig(weights="random", trainable_layers="lora",
                          trainable_token_pos="flexible")
model = build_classifier(config).gpt
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_hf(model, config, ["ham", "spam"], 32, Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.slow
def test_exporting_keeps_no_second_copy(tmp_path: Path) -> None:
    measured = subprocess.run(
        [sys.executable, "-c", EXPORT_AND_MEASURE, tmp_path / "hf"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    largest_tensor = 50257 * 768 * 4
    assert int(measured.stdout) * 1024 < 1.3 * largest_tensor


# ---------------------------------------------------------------- PEFT


@pytest.mark.parametrize("layers", ["lora", "lora_alternative"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_adapter_on_the_published_weights(tmp_path: Path, layers: str, n_classes: int) -> None:
    torch.manual_seed(2)
    shape = transformers.GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=4)
    base = transformers.GPT2Model(shape)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    base.save_pretrained(tmp_path / "base")
    config = replace(
        CONFIG,
        weights=str(tmp_path / "base"),
        trainable_layers=layers,
        lora_rank=3,
        lora_alpha=2.5,
    )
    model = trained_classifier(config, n_classes)
    export_hf(model, config, NAMES[:n_classes], 32, tmp_path / "hf")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=n_classes, pad_token_id=PADDING_TOKEN
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "hf" / "adapter").eval()
    assert not [w for w in caught if "adapter" in str(w.message)]
    stored = load_file(tmp_path / "hf" / "adapter" / "adapter_model.safetensors")
    assert peft.get_peft_model_state_dict(adapted).keys() == stored.keys()
    attention = adapted.base_model.model.transformer.h[1].attn.c_attn
    assert (attention.r["default"], attention.scaling["default"]) == (9, 2.5)
    assert_same(our_probabilities(model, config), their_probabilities(adapted))
    merged = adapted.merge_and_unload()
    assert_same(our_probabilities(model, config), their_probabilities(merged))


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_adapter_names_its_base(tmp_path: Path, weights: str) -> None:
    config = replace(CONFIG, trainable_layers="lora")
    model = trained_classifier(config)
    export_hf(model, replace(config, weights=weights), NAMES[:2], 32, tmp_path / "hf")
    adapter = peft.PeftConfig.from_pretrained(tmp_path / "hf" / "adapter")
    found = (adapter.base_model_name_or_path, adapter.revision)
    published = PUBLISHED_WEIGHTS[SIZE]
    named = (published.repository, published.revision)
    assert found == (named if weights == "pretrained" else (None, None))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, []),
        ({"no_padding": True}, []),
        ({"no_padding": True, "trainable_token_pos": "last"}, []),
        ({"precision": "bf16", "trainable_layers": "lora"}, []),
        ({"trainable_token_pos": "last"}, ["--trainable_token_pos last"]),
        ({"trainable_token_pos": "first"}, ["--trainable_token_pos first"]),
        ({"disable_causal_mask": True}, ["--disable_causal_mask"]),
        ({"average_embeddings": True}, ["--average_embeddings"]),
        (
            {"average_embeddings": True, "trainable_token_pos": "last"},
            ["--average_embeddings"],
        ),
        (
            {"disable_causal_mask": True, "trainable_token_pos": "first", "no_padding": True},
            ["--disable_causal_mask", "--trainable_token_pos first"],
        ),
    ],
)
def test_what_transformers_cannot_express(tmp_path: Path, options: dict, named: list[str]) -> None:
    config = replace(CONFIG, **options)
    problems = export_problems(config)
    assert [problem.flag for problem in problems] == [f"--export_hf with {flag}" for flag in named]
    if problems:
        with pytest.raises(ExportError) as caught:
            export_hf(trained_classifier(config), config, NAMES[:2], 32, tmp_path / "hf")
        assert str(caught.value) == "; ".join(map(str, problems))
        assert not list(tmp_path.iterdir())


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertModel"]}')
    more = tmp_path / "more"
    export_hf(trained_classifier(CONFIG), CONFIG, NAMES[:2], 32, more)
    (more / "notes.txt").write_text("mine")
    for folder, reason in (
        (file, "cannot be written"),
        (file / "below", "cannot be written"),
        (other, "the folder exists and is not just an earlier export"),
        (tmp_path, "the folder exists and is not just an earlier export"),
        (more, "the folder exists and is not just an earlier export"),
    ):
        with pytest.raises(ExportError, match=reason):
            require_export_folder(folder)
        with pytest.raises(ExportError, match=reason):
            export_hf(trained_classifier(CONFIG), CONFIG, NAMES[:2], 32, folder)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other", "more"}


def test_an_earlier_export_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "hf"
    folder.mkdir(parents=True)
    lora = replace(CONFIG, trainable_layers="lora")
    export_hf(trained_classifier(lora), lora, NAMES[:2], 32, folder, byte_vocabulary())
    assert (folder / "adapter").exists()
    require_export_folder(folder)
    model = trained_classifier(CONFIG, 3)
    export_hf(model, CONFIG, NAMES, 32, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_same(our_probabilities(model, CONFIG), their_probabilities(load(folder)))


@pytest.mark.parametrize("failing", ["writing", "renaming"])
def test_a_fault_leaves_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    export_hf(trained_classifier(CONFIG), CONFIG, NAMES[:2], 32, tmp_path / "hf")
    before = (tmp_path / "hf" / "config.json").read_text()
    rename = Path.rename

    def fail(source: Path, *rest: object) -> Path:
        if failing == "renaming" and (source / "config.json").read_text() == before:
            return rename(source, *rest)  # the earlier one, away and back again
        raise OSError(28, "No space left on device")

    if failing == "writing":
        monkeypatch.setattr(export, "_write_tensors", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    for folder in (tmp_path / "hf", tmp_path / "another"):
        with pytest.raises(ExportError, match=r"No space left on device.*another folder"):
            export_hf(trained_classifier(CONFIG, 3), CONFIG, NAMES, 32, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert (tmp_path / "hf" / "config.json").read_text() == before


# ---------------------------------------------------------------- tokens


def vocabulary_at_hand() -> dict[str, bytes]:
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with GPT-2's vocabulary")
    return vocabulary_files()


def random_texts() -> list[str]:
    draw = random.Random(0)
    known = [
        chr(i) for i in range(0x20000) if unicodedata.category(chr(i)) not in ("Cn", "Cs", "Co")
    ]
    common = [*" \n\t'.,!?", *map(chr, range(33, 127)), "\u00a0", "\x85", "\u200b", "\u3000"]
    texts = ["".join(draw.choices(common + draw.choices(known, k=40), k=30)) for _ in range(500)]
    return [*TEXTS, "it's we'll I'VE   ", "\r\n\r\n x", "a  b   c", "<|endoftext|>hi", *texts]


@pytest.mark.parametrize(
    ("vocabulary", "encoding"),
    [(byte_vocabulary, byte_encoding), (vocabulary_at_hand, gpt2_encoding)],
)
def test_token_ids_equal_tiktokens(
    tmp_path: Path, vocabulary: callable, encoding: callable
) -> None:
    files = vocabulary()
    encoding = encoding()
    export_hf(trained_classifier(CONFIG), CONFIG, NAMES[:2], 20, tmp_path / "hf", files)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert isinstance(tokenizer, transformers.GPT2Tokenizer)
    texts = random_texts()
    expected = encoding.encode_ordinary_batch(texts)
    assert tokenizer(texts)["input_ids"] == expected
    padded = [ids[:20] + [PADDING_TOKEN] * (20 - len(ids)) for ids in expected]
    assert tokenizer(texts, truncation=True, padding=True)["input_ids"] == padded
    assert tokenizer.batch_decode(expected) == texts


def test_pipeline(tmp_path: Path) -> None:
    encoding, model = byte_encoding(), trained_classifier(CONFIG, 3)
    export_hf(model, CONFIG, NAMES, 28, tmp_path / "hf", byte_vocabulary())
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "hf"))
    tokens = [ids[:28] for ids in encoding.encode_ordinary_batch(TEXTS)]
    probabilities = our_probabilities(model, CONFIG, tokens)
    answers = pipeline(TEXTS, truncation=True, batch_size=4, top_k=None)
    for answer, expected in zip(answers, probabilities.tolist(), strict=True):
        scores = {label["label"]: label["score"] for label in answer}
        assert list(map(scores.get, NAMES)) == pytest.approx(expected, abs=1e-5)


def test_published_files_are_copied(tmp_path: Path) -> None:
    files = vocabulary_at_hand()
    export_hf(trained_classifier(CONFIG), CONFIG, NAMES[:2], 20, tmp_path / "hf", files)
    assert {name: (tmp_path / "hf" / name).read_bytes() for name in files} == files
    merges = files["merges.txt"].decode().splitlines()
    assert merges[:4] == ["#version: 0.2", "Ġ t", "Ġ a", "h e"]
    vocabulary = json.loads(files["vocab.json"])
    assert (len(merges), len(vocabulary)) == (50001, 50257)
    # each merge makes the token of its rank
    made = [line.replace(" ", "") for line in merges[1:]]
    assert [vocabulary[token] for token in made] == list(range(256, 50256))
