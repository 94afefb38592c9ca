import csv
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import config_from_flags, environment_without_network, small_gpt2_encoding
from safetensors.torch import load_file, save_file

import predict
from ablation.classifier.saved_models import load_classifier
from ablation.classifier.tensor_files import read_tensors, write_tensors
from ablation.config.identity import checksum_json
from ablation.config.runs import OutputOptions
from ablation.data import corpora
from ablation.data.corpora import load_corpus
from ablation.data.demo import byte_encoding
from ablation.data.separated_values import TextFormat
from ablation.data.texts_to_classify import read_texts
from ablation.finetuning.classify import classify_texts
from ablation.finetuning.experiment import run_experiment
from ablation.finetuning.prediction_lines import Prediction, format_prediction
from ablation.system.errors import ConfigError, DataError, TensorFileError
from additional_experiments import main

pytestmark = pytest.mark.usefixtures("few_demo_messages")

DEMO = ["--demo", "--max_steps", "30", "--eval_freq", "100"]
ONE_STEP = ["--demo", "--max_steps", "1"]


def train(folder: Path, *flags: str) -> tuple[Path, pd.DataFrame]:
    """The folder of a run that kept its model, and its predictions."""
    assert main([*DEMO, *flags, "--save_model", "--output_dir", str(folder)]) == 0
    (predictions,) = folder.glob("*/predictions.csv")
    return predictions.parent, pd.read_csv(predictions)


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--trainable_token_pos flexible",
        "--trainable_token_pos first --trainable_layers last_layer",
        "--average_embeddings --trainable_layers last_two_blocks",
        "--disable_causal_mask",
        "--disable_causal_mask --no_padding --batch_size 1",
        "--no_padding --batch_size 1 --context_length 40",
        "--trainable_layers all",
        "--trainable_layers lora --lora_rank 3 --lora_alpha 2",
        "--trainable_layers lora_alternative --lora_rank 3",
        "--no_feature_reuse",
        "--precision bf16",
    ],
)
def test_predictions_are_those_of_the_run(flags: str, tmp_path: Path) -> None:
    run, expected = train(tmp_path, *flags.split())
    corpus = load_corpus(config_from_flags(["--demo"]))
    classifier = load_classifier(run, {})
    found = list(classify_texts(classifier, byte_encoding(), corpus.parts.test["Text"], 50))
    labels = [corpus.class_names[number] for number in expected["prediction"]]
    assert [prediction.label for prediction in found] == labels
    tolerance = 2e-3 if "bf16" in flags else 1e-6
    for prediction, row in zip(found, expected.itertuples(), strict=True):
        spam = prediction.probability if row.prediction else 1 - prediction.probability
        assert spam == pytest.approx(row.probability, abs=tolerance)


def test_only_what_was_trained_is_kept(tmp_path: Path) -> None:
    run, _ = train(tmp_path, "--trainable_layers", "lora", "--lora_rank", "2")
    _, tensors = read_tensors(run / "model.safetensors")
    trained = 4 * 6 * 2  # A and B of six layers in four blocks
    assert len(tensors) == trained + 4  # and of the classifier, with its weight and bias
    content = json.loads((run / "config.json").read_text())
    assert content["labels"] == ["ham", "spam"]
    assert content["base"] == {
        "weights": "random",
        "seed": 123,
        "torch": torch.__version__.partition("+")[0],
    }
    texts = load_corpus(config_from_flags(["--demo"])).parts.train["Text"]
    assert content["max_tokens"] == max(len(text.encode()) for text in texts)


def test_base_weights_in_a_file(checkpoint: str, tmp_path: Path) -> None:
    original = tmp_path / "weights.safetensors"
    original.write_bytes((Path(checkpoint) / "model.safetensors").read_bytes())
    run, expected = train(tmp_path / "runs", "--weights", str(original))
    moved = tmp_path / "moved.safetensors"
    original.rename(moved)
    corpus = load_corpus(config_from_flags(["--demo"]))
    text = corpus.parts.test["Text"].iloc[0]
    classifier = load_classifier(run, {"weights": str(moved)})
    (found,) = classify_texts(classifier, byte_encoding(), [text])
    spam = found.probability if found.label == "spam" else 1 - found.probability
    assert spam == pytest.approx(expected["probability"][0], abs=1e-6)

    with pytest.raises(TensorFileError, match=rf"{original}.*not there. Name.*--weights PATH"):
        load_classifier(run, {})
    with pytest.raises(ConfigError, match="no such file"):
        load_classifier(run, {"weights": "nowhere"})
    tensors = load_file(moved)
    next(iter(tensors.values())).add_(1e-3)
    save_file(tensors, moved)
    with pytest.raises(TensorFileError, match="other base weights"):
        load_classifier(run, {"weights": str(moved)})


def test_relative_base_weights_are_found_from_any_folder(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    content = (Path(checkpoint) / "model.safetensors").read_bytes()
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("w.safetensors").write_bytes(content)
    run, _ = train(tmp_path / "runs", "--weights", "w.safetensors")
    monkeypatch.chdir(tmp_path / "there")
    Path("w.safetensors").write_bytes(b"another file of that name")
    capsys.readouterr()
    assert predict.main([str(run), "hello"]) == 0
    found = capsys.readouterr().out

    Path("w.safetensors").write_bytes(content)
    (tmp_path / "here" / "w.safetensors").unlink()
    assert predict.main([str(run), "hello"]) == 0, "the whole folder may have been moved"
    assert capsys.readouterr().out == found
    Path("w.safetensors").rename("v.safetensors")
    assert predict.main([str(run), "hello"]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "here" / "w.safetensors") in message
    assert hashlib.sha256(content).hexdigest() in message
    assert "--weights PATH" in message
    assert predict.main([str(run), "hello", "--weights", "v.safetensors"]) == 0
    assert capsys.readouterr().out == found


def test_a_model_of_the_first_version_is_refused(
    saved: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It has no checksum, so nobody can tell whether it is damaged."""
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    model = tmp_path / "model.safetensors"
    header, tensors = read_tensors(model)
    save_file(tensors, model, {"format": "pt", "header": json.dumps(header)})
    assert predict.main([str(tmp_path), "hello"]) == 1
    assert "it lacks 'sha256'" in capsys.readouterr().err


DAMAGES = {
    "config.json": [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("[" * 200_000),
        lambda path: rewrite_config(path, base="weights"),
        lambda path: rewrite_config(path, labels="ab"),
        lambda path: rewrite_config(path, max_tokens="many"),
        lambda path: rewrite_config(path, max_tokens="model_context_length"),
        lambda path: rewrite_config(path, max_tokens=True),
        lambda path: rewrite_config(path, max_tokens=90.0),
        lambda path: rewrite_config(path, max_tokens=0),
        lambda path: rewrite_config(path, max_tokens=1025),
        lambda path: rewrite_config(path, base=None),
        lambda path: rewrite_config(path, base={}),
        lambda path: rewrite_config(path, base={"weights": "random"}),
        lambda path: rewrite_config(path, base={"weights": "pretrained"}),
        lambda path: rewrite_config(path, labels=["ham", "ham"]),
        lambda path: rewrite_config(path, labels=["ham", ""]),
        lambda path: rewrite_config(path, labels=["ham", "  "]),
        lambda path: rewrite_config(path, labels=["ham", None]),
        lambda path: rewrite_config(path, labels=["ham"]),
        lambda path: path.write_text(path.read_text().replace('"last_block"', "null")),
        lambda path: path.write_text(path.read_text().replace("false", "[1]", 1)),
        lambda path: path.write_text(path.read_text().replace('"ham"', "7")),
        lambda path: path.write_text(path.read_text().replace("90", "9000")),
        lambda path: path.write_text(path.read_text().replace("gpt2-tiny", "gpt2-huge")),
        lambda path: path.write_text(path.read_text().replace('"last"', '"first"')),
    ],
    "model.safetensors": [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(b"\0" * 100),
        lambda path: rewrite(path, "head.bias", None),
        lambda path: rewrite(path, "more", torch.ones(2)),
        lambda path: rewrite(path, "head.bias", torch.ones(3)),
        lambda path: rewrite(path, "head.bias", torch.ones(2, dtype=torch.float64)),
        lambda path: rewrite(path, "head.bias", torch.tensor([0.0, torch.inf])),
        lambda path: flip(path, -1),
        lambda path: flip(path, -100_000),
    ],
}


def rewrite_config(path: Path, **changes: object) -> None:
    """Change the configuration, and make the model's file belong to it."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content))
    model = path.with_name("model.safetensors")
    write_tensors(model, read_tensors(model)[1], {"config_sha256": checksum_json(content)})


def rewrite(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    header, tensors = read_tensors(path)
    tensors.pop(name, None)
    write_tensors(path, tensors if tensor is None else {**tensors, name: tensor}, header)


def flip(path: Path, place: int) -> None:
    """One bit, in the data of a tensor."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("saved")
    run_experiment(config_from_flags(ONE_STEP), output=OutputOptions(folder, save_model=True))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, i) for name, damages in DAMAGES.items() for i in range(len(damages))],
)
def test_damaged_models_are_named(
    name: str, number: int, saved: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    DAMAGES[name][number](tmp_path / name)
    assert predict.main([str(tmp_path), "hello"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert str(tmp_path) in captured.err
    assert captured.out == ""


# ---------------------------------------------------------------- in and out

PREDICT = Path(predict.__file__)


def run_predict(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, PREDICT, folder, *arguments],
        input=stdin,
        capture_output=True,
        env=environment_without_network(folder, OMP_NUM_THREADS="1"),
        cwd=folder,
        timeout=60,
    )


def test_three_ways_in_three_ways_out(
    saved: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    texts = ["Hi Anna", "", "WIN £100 \x1b[31mnow", "Hi Anna"]
    assert predict.main([str(tmp_path), *texts, "--format", "jsonl"]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert "Blank texts, classified like the others: 1 of 4" in captured.err
    assert [line["text"] for line in lines] == texts
    assert lines[0] == lines[3]

    table = tmp_path / "texts.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([["n", "said"], *enumerate(texts)])
    for flags in (
        ["--csv", str(table), "--column", "said"],
        ["--csv", str(table), "--column", "2", "--header", "yes"],
    ):
        assert predict.main([str(tmp_path), *flags, "--format", "csv"]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        for row, line in zip(rows, lines, strict=True):
            assert row["label"] == line["label"]
            assert float(row["probability"]) == pytest.approx(line["probability"], abs=1e-6)

    found = run_predict(tmp_path, stdin="\n".join(texts[:3]).encode() + b"\r\n")
    assert found.returncode == 0
    shown = found.stdout.decode().splitlines()
    assert [line.split("  ")[0] for line in shown] == [line["label"] for line in lines[:3]]
    assert "\x1b" not in found.stdout.decode(), "a text moves no cursor"


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        (["--format", "xml", "a"], b"", 2, "no such choice"),
        (["--csv", "x.csv", "a"], b"", 2, "give one of them"),
        (["--csv", "x.csv"], b"", 1, "x.csv cannot be read"),
        (["--csv", ""], b"", 2, '--csv "": empty'),
        (["--csv", "/dev/zero"], b"", 1, "cannot be read: it is a device"),
        (["--csv", "x", "--encoding", "x"], b"", 2, "--encoding x: no such encoding"),
        (["--csv", "x", "--delimiter", "x"], b"", 2, "no such choice"),
        (["--csv", "x", "--header", "no"], b"", 2, '--header no with --column "Text"'),
        (["a", "--quoting", "none"], b"", 2, "--quoting without --csv FILE"),
        (["--weights", "nix", "a"], b"", 2, "no such file"),
        (["--device", "cuda", "a"], b"", 2, "no such device"),
        (["--device", "gpu", "a"], b"", 2, 'mean "cuda"'),
        (["--format", "csv", "--format", "text", "a"], b"", 2, "--format csv and --format text"),
        (["--format", "csv", "--format", "csv", "a"], b"", 0, ""),
        (["--csv", "a" * 5000], b"", 2, "the name is too long"),
        (["a", "."], b"", 2, "more than one RUN_DIR"),
        (["a", "config.json"], b"", 2, "TEXT config.json: that is a file; give --csv config.json"),
        ([], b"fine\n\xff\xfe\n", 1, "line 2"),
        ([], b"", 0, ""),
    ],
)
def test_bad_input(
    saved: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    stdin: bytes,
    status: int,
    message: str,
) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    assert predict.main([str(tmp_path), *arguments]) == status
    assert message in capsys.readouterr().err


def test_all_problems_of_a_command_line_are_named_together(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--format", "xml", "--header", "maybe", "--device", "gpu", "--csv", ""]
    assert predict.main([str(tmp_path / "nowhere"), *flags]) == 2
    err = capsys.readouterr().err
    for words in ("no such folder", '--format "xml"', '--header "maybe"', 'mean "cuda"', "--csv"):
        assert words in err


def test_unusual_texts(
    saved: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Spaces without end, which tiktoken runs out of stack on, and bytes that are not UTF-8."""
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    monkeypatch.setattr(corpora, "load_encoding", lambda _: small_gpt2_encoding())
    (tmp_path / "a.csv").write_text(f"Text\nfine\n{' ' * 10**6}a\n")
    assert predict.main([str(tmp_path), "--csv", str(tmp_path / "a.csv"), "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert predict.main([str(tmp_path), "fine", "caf\udce9"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith('Error: Text 2, which begins with "caf')
    assert "not UTF-8" in captured.err
    texts = ["a", "b", "c", "d", "caf\udce9"]
    with pytest.raises(DataError, match="Text 5,"):
        list(classify_texts(load_classifier(tmp_path, {}), byte_encoding(), texts, 2))


def test_too_little_memory_names_flags_that_there_are(
    saved: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)

    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("ablation.finetuning.classify.class_probabilities", fail)
    assert predict.main([str(tmp_path), "hello"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("Error: out of memory: [enforce fail")
    flags = set(re.findall(r"--\w+", message))
    assert flags
    assert flags <= set(re.findall(r"--\w+", predict.build_parser().format_help()))


def texts_of(content: bytes, column: str = "1", **form: str) -> list[str]:
    Path("a.txt").write_bytes(content)
    return [row.fields[0] for row in read_texts(Path("a.txt"), [column], TextFormat(**form))]


def test_files_are_read_as_for_training() -> None:
    content = 'Text;n\n"é";1\n;2\n'.encode("cp1252")
    assert texts_of(content, "Text", encoding="cp1252") == ["é", ""]
    assert texts_of(b'a "b\t1\n"c\t2\n', quoting="none", delimiter="tab") == ['a "b', '"c']
    assert texts_of(gzip.compress(b'{"Text": "a"}\n'), "Text") == ["a"]
    merged = b'Text,n\n"Never again,1\nlovely,2\nthe chef",3\n'
    with pytest.raises(DataError, match="line 2: a quote opens there"):
        texts_of(merged, "Text")
    assert texts_of(merged, "Text", quoting="csv") == ["Never again,1\nlovely,2\nthe chef"]


@pytest.mark.parametrize(
    ("content", "column", "name"),
    [
        (b"id,said\n1,a\n2,b\n3,c\n", "2", "id"),
        (b"said,kind\na,ham\nb,spam\nc,ham\nd,spam\n", "1", "kind"),
        (b"Text\na\n", "1", "Text"),
    ],
)
def test_a_line_of_names_is_no_text(content: bytes, column: str, name: str) -> None:
    with pytest.raises(DataError, match=f'line 1: "{name}" seems to be the name of a column'):
        texts_of(content, column)
    texts = texts_of(content, column, header="yes")
    assert texts[0] == "a"
    assert len(texts_of(content, column, header="no")) == len(texts) + 1


def test_first_texts_that_are_no_names() -> None:
    for content in (
        b"a,1\nb,2\nc,3\nd,4\n",
        b"a,ham\nb,spam\nc,ham\nd,ham\ne,spam\n",
        b"see you\nok\nok\nwell\n",
        b"a\n",
        b"Text\n",
    ):
        assert len(texts_of(content)) == content.count(b"\n")


@pytest.mark.slow
def test_files_are_streamed(tmp_path: Path) -> None:
    with open(tmp_path / "a.csv", "w") as file:
        file.write("Text,n\n" + "hello,1\n" * 200_000)
    tracemalloc.start()
    texts = read_texts(tmp_path / "a.csv", ["Text"], TextFormat())
    assert sum(row.fields == ["hello"] for row in texts) == 200_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_folder_is_needed(capsys: pytest.CaptureFixture) -> None:
    for arguments in ([], ["--csv", "x.csv"], [""]):
        assert predict.main(arguments) == 2
        assert "RUN_DIR: missing" in capsys.readouterr().err
    assert predict.main(["nix", "hello"]) == 2
    assert "nix: no such folder" in capsys.readouterr().err
    Path("loop").symlink_to("loop")
    for path, reason in (("a" * 5000, "the name is too long"), ("loop", "lead in a circle")):
        assert predict.main([path, "hello"]) == 2
        err = capsys.readouterr().err
        assert f"{path[:60]}" in err
        assert reason in err
        assert len(err) < 300


def test_texts_are_streamed(saved: dict[str, bytes], tmp_path: Path) -> None:
    for file, content in saved.items():
        (tmp_path / file).write_bytes(content)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield f"text {read}"

    found = classify_texts(load_classifier(tmp_path, {}), byte_encoding(), endless(), 10)
    assert [next(found).text for _ in range(25)] == [f"text {i}" for i in range(1, 26)]
    assert read == 30


def test_no_output_acts() -> None:
    label = 'a,"b"'
    line = format_prediction(3, Prediction("=1+1", label, 0.5), "csv")
    assert next(csv.reader([line])) == ["3", label, "0.5"]
    dangerous = format_prediction(0, Prediction("\x1b[2Jx\ny", "\x1b[31ma\n", 0.5), "text")
    assert dangerous.isprintable()
    long = format_prediction(0, Prediction("x" * 500, "a", 0.25), "text")
    assert long == f"a  0.2500  {'x' * 80}..."


def test_a_complete_run_without_its_model_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = [*ONE_STEP, "--resume", "--output_dir", str(tmp_path)]
    assert main(flags) == 0
    assert main([*flags, "--save_model"]) == 0
    assert "complete already" not in capsys.readouterr().err
    assert main([*flags, "--save_model"]) == 0
    assert "complete already" in capsys.readouterr().err
    (model,) = tmp_path.glob("*/model.safetensors")
    model.write_bytes(b"another run's")
    assert main([*flags, "--save_model"]) == 0
    assert "complete already" not in capsys.readouterr().err
