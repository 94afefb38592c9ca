"""What a model says after each token: each value is held to a pass over the text cut there."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_protocol
import pytest
import torch
from helpers import config_from_flags, small_gpt2_encoding

import predict
from ablation.classifier.build import build_classifier
from ablation.classifier.saved_models import SavedClassifier
from ablation.config.runs import OutputOptions
from ablation.data.demo import byte_encoding
from ablation.finetuning.by_token import ByToken, Stretch, read_by_token, readable
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.token_lines import format_by_token
from ablation.system.errors import DataError

TEXT = "WIN £5 now"  # 11 tokens: the pound sign is two
MAX_TOKENS = 17
WAYS_TO_READ = {
    "": 17,  # values: of the text, and of its padding where that counts
    "--trainable_token_pos first": 11,
    "--trainable_token_pos flexible": 11,
    "--average_embeddings": 17,
    "--average_embeddings --trainable_token_pos first": 17,
    "--average_embeddings --trainable_token_pos flexible": 11,
    "--no_padding --batch_size 1": 11,
    "--no_padding --batch_size 1 --average_embeddings": 11,
    "--disable_causal_mask": 17,
    "--disable_causal_mask --trainable_token_pos first": 17,
    "--disable_causal_mask --trainable_token_pos flexible": 17,
    "--disable_causal_mask --average_embeddings": 17,
    "--disable_causal_mask --average_embeddings --trainable_token_pos flexible": 17,
    "--disable_causal_mask --no_padding --batch_size 1": 11,
    "--no_feature_reuse": 17,
    "--trainable_layers lora --lora_rank 3 --lora_alpha 2": 17,
    "--trainable_layers lora_alternative --lora_rank 3": 17,
    "--precision bf16": 17,
}


def make_classifier(flags: str = "", n_classes: int = 2) -> SavedClassifier:
    """A model whose weights make up its mind at once, and often anew."""
    config = replace(config_from_flags(["--demo", *flags.split()]), context_length=MAX_TOKENS)
    model = build_classifier(config, n_classes=n_classes).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.05 * torch.randn(parameter.shape).to(parameter.dtype)
            parameter *= 4 if "head" in name else 1
    names = ("ham", "spam", "news", "a\x1bb")[:n_classes]
    return SavedClassifier(model, config, names, MAX_TOKENS)


def plain_probabilities(classifier: SavedClassifier, ids: list[int], n_own: int) -> np.ndarray:
    """What the plain protocol makes of these token ids, of which the first ``n_own`` are no
    padding: (C,)."""
    gpt, config = classifier.model.gpt, classifier.config
    weights = {
        "tokens": gpt.token_embedding.weight.float(),
        "positions": gpt.position_embedding.weight.float(),
        "norm": [gpt.final_norm.weight, gpt.final_norm.bias],
        "head": None,
    }
    lora, layers = {}, {"head": gpt.head}
    for i, block in enumerate(gpt.blocks):
        attention, forward = block.attention, block.feed_forward
        layers |= {f"{i}.{name[0]}": getattr(attention, name) for name in ("query", "key", "value")}
        layers |= {f"{i}.o": attention.out_proj}
        layers |= {f"{i}.in": forward.in_proj, f"{i}.out": forward.out_proj}
        for name in ("norm1", "norm2"):
            norm = getattr(block, name)
            weights[f"{i}.{name}"] = [norm.weight, norm.bias]
    for name, layer in layers.items():
        if hasattr(layer, "linear"):
            lora[name] = [layer.A, layer.B]
            layer = layer.linear
        weights[name] = [layer.weight.float(), layer.bias.float()]
    options = vars(config) | {"n_layers": len(gpt.blocks), "n_heads": config.gpt.n_heads}
    with torch.no_grad():
        logits = plain_protocol.forward(torch.tensor([ids]), weights, lora, options)[0]
        return plain_protocol.read(logits, n_own, options).double().softmax(dim=-1).numpy()


@pytest.mark.parametrize("flags", WAYS_TO_READ)
def test_each_value_is_that_of_the_text_cut_there(flags: str) -> None:
    classifier = make_classifier(flags)
    read = read_by_token(classifier, byte_encoding(), TEXT)
    ids = [*byte_encoding().encode(TEXT), *[plain_protocol.PAD] * 6][: WAYS_TO_READ[flags]]
    expected = np.array(
        [plain_probabilities(classifier, ids[:n], min(n, 11)) for n in range(1, len(ids) + 1)]
    )
    tolerance = 0.05 if "bf16" in flags else 2e-5
    np.testing.assert_allclose(read.probabilities, expected, atol=tolerance)
    if flags not in ("--trainable_token_pos first", "--precision bf16"):
        assert np.ptp(expected[:, 0]) > 100 * tolerance, "they differ, or nothing was compared"
    (answer,) = classify_texts(classifier, byte_encoding(), [TEXT])
    assert (read.label, read.probability_of(read.label)[-1]) == (answer.label, answer.probability)


def test_one_pass_is_enough_under_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    for flags, expected in (("", [17, 17]), ("--disable_causal_mask", [*range(1, 18), 17])):
        classifier = make_classifier(flags)
        embed = classifier.model.gpt.embed

        def count(tokens: torch.Tensor, embed=embed) -> torch.Tensor:
            widths.append(tokens.shape[1])
            return embed(tokens)

        monkeypatch.setattr(classifier.model.gpt, "embed", count)
        read_by_token(classifier, byte_encoding(), TEXT)
        assert widths == expected  # the last is the answer's own
        widths.clear()


# ---------------------------------------------------------------- how it is shown


def shown(read: ByToken, form: str = "text", number: int = 0) -> list[str]:
    return list(format_by_token(number, read, form))


def made_up(probabilities: list[float], tokens: tuple[bytes, ...] = (b"a", b" b")) -> ByToken:
    """A text with these probabilities of spam."""
    table = np.array([[1 - p, p] for p in probabilities])
    return ByToken("a b", ("ham", "spam"), (1, 2), tokens, table, 0, "It reads.")


def test_padding_that_changes_nothing_is_one_line() -> None:
    read = made_up([0.75, 0.25, 0.25, 0.125, 0.5625, 0.75, 0.875, 0.625])
    assert read.padding == [Stretch(2, 4, "ham"), Stretch(4, 7, "spam"), Stretch(7, 8, "spam")]
    assert shown(read) == [
        "spam  0.6250  a b",
        "   token                       spam                   best class",
        "1  a                         0.7500  ###############  spam",
        "2  ·b                        0.2500  #####            ham (was spam)",
        "   padding 1 to 2  0.1250 to 0.2500                   ham",
        "   padding 3 to 5  0.5625 to 0.8750                   spam (was ham)",
        "   padding 6                 0.6250  ############     spam  <- the answer",
        "It reads.",
        "",
    ]


def test_a_class_that_goes_to_and_fro_takes_few_lines() -> None:
    lines = shown(made_up([0.25, 0.75] * 100))
    assert len(lines) < 25
    assert sum("csv has all" in line for line in lines) == 1
    (said,) = (line for line in lines if "csv has all" in line)
    assert "(186 more changes; csv has all)" in said
    assert "padding 198" in lines[-3]


def test_several_classes() -> None:
    classifier = make_classifier(n_classes=4)
    read = read_by_token(classifier, byte_encoding(), TEXT)
    assert len({*read.predicted}) > 2
    (answer,) = classify_texts(classifier, byte_encoding(), [TEXT], top=4)
    assert answer.label == read.label
    last = json.loads(shown(read, "jsonl")[-1])
    assert last["probabilities"] == pytest.approx(answer.probabilities)
    assert last["probability_of_answer"] == answer.probability
    rows = list(csv.reader(io.StringIO("\n".join(shown(read, "csv", 3)))))
    assert [row[0] for row in rows] == ["3"] * MAX_TOKENS
    assert [row[4] for row in rows] == read.predicted
    own = [float(row[-1]) for row in rows]
    assert own == pytest.approx(read.probability_of(read.label), abs=1e-8)
    best = [float(p) for p in read.probabilities.max(axis=1)]
    assert own != pytest.approx(best), "it is of the class that the text is given in the end"
    assert all(line.isprintable() for line in shown(read))


def test_a_text_that_is_too_long_is_cut_and_that_is_said() -> None:
    classifier = make_classifier()
    long = "x" * MAX_TOKENS + "yz"
    read = read_by_token(classifier, byte_encoding(), long)
    assert (len(read.tokens), read.n_padding, read.n_cut) == (MAX_TOKENS, 0, 2)
    assert read.cut_words == "the model reads 17 tokens, and not the 2 behind them."
    (answer,) = classify_texts(classifier, byte_encoding(), [long])
    assert read.probability_of(read.label)[-1] == answer.probability


@pytest.mark.parametrize("flags", ["", "--no_padding --batch_size 1"])
def test_an_empty_text_is_a_padding_token_here_as_well(flags: str) -> None:
    classifier = make_classifier(flags)
    read = read_by_token(classifier, byte_encoding(), "")
    assert read.token_ids == (plain_protocol.PAD,)
    assert len(read.predicted) == (1 if flags else MAX_TOKENS)
    (answer,) = classify_texts(classifier, byte_encoding(), [""])
    assert (read.label, read.probability_of(read.label)[-1]) == (answer.label, answer.probability)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (b" a  b", "·a··b"),
        (b"\n\t", r"\n\t"),
        (b"\xc2", r"\xc2"),
        ("£".encode(), "£"),
        ("\u00a0x\u3000".encode(), r"\xa0x\u3000"),
        ("\u202ex\x1b".encode(), r"\u202ex\x1b"),
    ],
)
def test_a_token_can_be_seen(token: bytes, words: str) -> None:
    assert readable(token) == words


def test_tokens_are_those_that_the_model_reads() -> None:
    read = read_by_token(make_classifier(), small_gpt2_encoding(), "b a  a\n")
    assert [readable(token) for token in read.tokens] == ["b", "·a", "·", "·a", r"\n"]


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    config = config_from_flags(["--demo", "--max_steps", "1"])
    run_experiment(config, output=OutputOptions(folder, save_model=True))
    return folder


def test_command_line(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert predict.main([str(run), "--format", "jsonl", TEXT, "WIN"]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert predict.main([str(run), "--by_token", "--format", "jsonl", TEXT, "WIN"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for number, said in enumerate(plain):
        (*_, last) = (line for line in lines if line["index"] == number)
        assert (last["answer"], last["label"]) == (said["label"], said["label"])
        assert last["probability_of_answer"] == pytest.approx(said["probability"], abs=1e-6)
    assert predict.main([str(run), "--by_token", TEXT, "x" * 200]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("<- the answer") == 2
    assert "Text 2: the model reads 90 tokens, and not the 110 behind them." in captured.err


def test_lines_of_standard_input(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hi\n\nyou\n")))
    assert predict.main([str(run), "--by_token", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    tokens = [row["token"] for row in rows if row["kind"] == "text"]
    assert tokens == ["H", "i", "<|endoftext|>", "y", "o", "u"]
    assert {row["index"] for row in rows} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--by_token --csv a.csv", "--by_token with --csv"),
        ("--by_token --csv a.csv --label_column b", "--by_token with --csv"),
        ("--by_token a --top 2", "--by_token with --top or --probabilities"),
        ("--by_token a --probabilities all", "--by_token with --top or --probabilities"),
        ("--by_token a --column b", "--column without --csv"),
        ("a --html a.html", "--html without --by_token"),
        ("a --by_token --html .", "that is a folder"),
        ("a --by_token --html nowhere/a.html", "no such folder"),
    ],
)
def test_what_does_not_go_together(
    flags: str, words: str, run: Path, capsys: pytest.CaptureFixture
) -> None:
    assert predict.main([str(run), *flags.split()]) == 2
    assert words in capsys.readouterr().err


def test_a_page_never_replaces_other_things(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (notes := tmp_path / "notes.txt").write_text("mine")
    (link := tmp_path / "link").symlink_to(run)
    before = {path: path.read_bytes() for path in run.iterdir()}
    own = [*before, run / "checkpoint.safetensors", link / "result.json"]
    for path in (*own, notes):
        assert predict.main([str(run), "--by_token", "a", "--html", str(path)]) == 2
        assert f"--html {path}: that is no name of a page" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert notes.read_text() == "mine"
    for path in (run / "a.html", run / "a.HTM"):
        for _ in range(2):
            assert predict.main([str(run), "--by_token", "a", "--html", str(path)]) == 0
        path.unlink()


def test_what_is_no_text_is_refused(run: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(DataError, match="Text 3,"):
        read_by_token(make_classifier(), byte_encoding(), "caf\udce9", 3)
    assert predict.main([str(run), "--by_token", "fine", "caf\udce9"]) == 1
    assert "Error: Text 2" in capsys.readouterr().err
