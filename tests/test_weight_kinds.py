"""What is given as weights, and is none, is recognised and answered with the right way out."""

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ablation.classifier.build import load_weights
from ablation.classifier.published_weights import BLOCK_MODULES
from ablation.classifier.weight_files import find_weights
from ablation.config.options import ExperimentConfig
from ablation.config.runs import OutputOptions
from ablation.config.sizes import MODEL_SIZES
from ablation.finetuning.checkpoints import CHECKPOINT_NAME
from ablation.finetuning.experiment import run_experiment
from ablation.system.errors import DataError, TensorFileError
from additional_experiments import main

TINY = "gpt2-tiny (3M)"
RUN = ["--demo", "--max_steps", "1", "--eval_iter", "1"]


def refusal(path: Path, model_size: str = TINY) -> str:
    """What a user is told who gives a path as weights."""
    with pytest.raises((DataError, TensorFileError)) as error:
        load_weights(ExperimentConfig(model_size=model_size, weights=str(path)))
    message = str(error.value)
    assert str(path) in message
    return message


def numpy_zip() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    return buffer.getvalue()


def torch_file(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"wte.weight": torch.ones(2, 2)}, buffer, **options)
    return buffer.getvalue()


def some_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme", "hello")
    return buffer.getvalue()


FILES: dict[str, tuple[str, bytes, str, str]] = {
    "torch.save": ("a.bin", torch_file(), "PyTorch pickle", "save_pretrained"),
    "torch.save as it was": (
        "a.pt",
        torch_file(_use_new_zipfile_serialization=False),
        "PyTorch pickle",
        "save_pretrained",
    ),
    "under another name": ("a.safetensors", torch_file(), "PyTorch pickle", "save_pretrained"),
    "half of it": ("a.safetensors", torch_file()[:300], "PyTorch pickle", "save_pretrained"),
    "pickle": ("a", pickle.dumps([1]), "PyTorch pickle", "save_pretrained"),
    "by its name": ("pytorch_model.bin", b"?", "PyTorch pickle", "save_pretrained"),
    "git-lfs": (
        "model.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 548105171\n",
        "git-lfs pointer",
        "git lfs pull",
    ),
    "GGUF": ("a.gguf", b"GGUF\x03\0\0\0" + bytes(99), "GGUF", "safetensors file"),
    "GGUF as .bin": ("a.bin", b"GGUF\x03\0\0\0" + bytes(99), "GGUF", "safetensors file"),
    "NumPy": ("a.npy", b"\x93NUMPY\x01\0v\0", "NumPy", "safetensors"),
    "NumPy's zip": ("a.npz", numpy_zip(), "NumPy", "safetensors"),
    "Keras": ("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "TensorFlow", "save_pretrained"),
    "TensorFlow": ("model.ckpt.index", b"\0\0", "TensorFlow", "save_pretrained"),
    "ONNX": ("model.onnx", b"\x08\x08\x12\x07pytorch", "ONNX", "safetensors file"),
    "a page": ("model.safetensors", b"<!DOCTYPE html><html>", "web page", "Download"),
    "gzip": ("model.safetensors.gz", gzip.compress(b"a" * 99, mtime=0), "archive", "Unpack"),
    "zip": ("a.zip", some_zip(), "archive", "Unpack"),
    "an index": ("model.safetensors.index.json", b"{}", "in several files", "max_shard_size"),
    "a configuration": ("config.json", b"{}", "text", "the safetensors file"),
    "an adapter's": ("adapter_config.json", b"{}", "adapter", "merge_and_unload"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files(kind: str, tmp_path: Path) -> None:
    name, content, what, way_out = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert what in message
    assert way_out in message


FOLDERS: dict[str, tuple[list[str], str, str]] = {
    "shards": (
        ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"],
        "in several files",
        "max_shard_size",
    ),
    "a pickle": (["config.json", "pytorch_model.bin"], "PyTorch pickle", "save_pretrained"),
    "shards of pickles": (
        ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
        "in several files",
        "max_shard_size",
    ),
    "an adapter": (["adapter_config.json", "adapter_model.bin"], "adapter", "merge_and_unload"),
    "TensorFlow": (["config.json", "tf_model.h5"], "TensorFlow", "save_pretrained"),
    "OpenAI's": (["checkpoint", "hparams.json", "model.ckpt.meta"], "TensorFlow", "save_pre"),
    "a run": (["result.json", "predictions.csv"], "folder of a run", "--resume"),
    "--weights_dir": (["gpt2/model.safetensors"], "as --weights_dir takes it", "--weights_dir"),
    "shards without an index": (
        ["model-1-of-2.safetensors", "model-2-of-2.safetensors"],
        "in several files",
        "max_shard_size",
    ),
    "GGUF": (["README.md", "gpt2.Q4_K_M.gguf"], "GGUF", "safetensors file"),
    "a model in the hub's cache": (
        ["refs/main", "snapshots/1/model.safetensors"],
        "cache",
        "snapshots",
    ),
    "the hub's cache": (["models--gpt2/refs/main", "version.txt"], "cache", "snapshots"),
    "its snapshots": ([f"{'0a' * 20}/model.safetensors"], "cache", "snapshots"),
    "a text": (["README.md"], "holds no model.safetensors", "Name one file"),
    "nothing": ([], "holds no model.safetensors", "Name one file"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(kind: str, tmp_path: Path) -> None:
    names, what, way_out = FOLDERS[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    message = refusal(tmp_path)
    assert what in message
    assert way_out in message


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        "base_model.model.transformer.h.0.mlp.c_fc.ia3_l",
        "prompt_embeddings",
    ],
)
def test_adapters_by_their_tensors(name: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2)}, tmp_path / "a.safetensors")
    assert "merge_and_unload" in refusal(tmp_path / "a.safetensors")


def test_the_only_shard_that_is_there(checkpoint: str, tmp_path: Path) -> None:
    tensors = load_file(Path(checkpoint) / "model.safetensors")
    save_file(dict(list(tensors.items())[:20]), tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(DataError, match="in several files, or one of them"):
        find_weights(ExperimentConfig(model_size=TINY, weights=str(tmp_path)))
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(
        (Path(checkpoint) / "model.safetensors").read_bytes()
    )
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    load_weights(ExperimentConfig(model_size=TINY, weights=str(tmp_path)))


# ---------------------------------------------------------------- what this project writes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a kept model, an export with an adapter, and a checkpoint beside them."""
    folder = tmp_path_factory.mktemp("run")
    config = ExperimentConfig(
        demo=True,
        model_size=TINY,
        weights="random",
        trainable_layers="lora",
        trainable_token_pos="flexible",
        max_steps=1,
        eval_iter=1,
    )
    output = OutputOptions(
        folder, save_model=True, checkpoint_every=1, export_dir=folder / "export"
    )
    run_experiment(config, output=output)
    return folder


OWN = {
    "export": ("a trained classifier as transformers has it", "pipeline"),
    "export/model.safetensors": ("a trained classifier as transformers has it", "pipeline"),
    "export/adapter": ("an adapter", "merge_and_unload"),
    "export/adapter/adapter_model.safetensors": ("an adapter", "merge_and_unload"),
    "": ("the model that a run kept with --save_model", "python predict.py {run}"),
    "model.safetensors": ("the model that a run kept", "python predict.py {run}"),
    CHECKPOINT_NAME: ("a checkpoint of a run", "with --resume"),
}


@pytest.mark.parametrize("place", OWN)
def test_what_runs_leave(place: str, run: Path) -> None:
    what, way_out = OWN[place]
    message = refusal(run / place)
    assert f"this is {what}" in message
    assert way_out.format(run=run) in message
    assert "model_size" not in message


def test_the_script_says_so(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*RUN, "--weights", str(run)]) == 1
    assert "python predict.py" in capsys.readouterr().err


# ---------------------------------------------------------------- other models


def save_gpt2(path: Path, emb_dim: int, n_layers: int, prefix: str = "") -> Path:
    """The names of a GPT-2, and of its shapes that which says what size it is."""
    names = [f"h.{i}.{name}.weight" for i in range(n_layers) for name in BLOCK_MODULES]
    names += [name.replace(".weight", ".bias") for name in names]
    tensors = {"wte.weight": torch.ones(1, emb_dim), **{name: torch.ones(1) for name in names}}
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("size", [size for size in MODEL_SIZES if size != TINY])
def test_another_size_is_named(size: str, prefix: str, tmp_path: Path) -> None:
    shape = MODEL_SIZES[size]
    path = save_gpt2(tmp_path / "w", shape.emb_dim, shape.n_layers, prefix)
    assert f'seems to be "{size}". Add --model_size "{size}"' in refusal(path)
    find_weights(ExperimentConfig(model_size=size, weights=str(path)))


def test_a_size_that_nobody_has_is_described(tmp_path: Path) -> None:
    path = save_gpt2(tmp_path / "distilled", 768, 6)
    assert "6 blocks, and 768 numbers for a token, which is not a size" in refusal(path)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    save_file({"bert.embeddings.weight": torch.ones(2)}, tmp_path / "b")
    assert "no GPT-2: its tensors have names like bert.embeddings.weight" in refusal(tmp_path / "b")


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
DAMAGE: dict[str, Change] = {
    "a tensor lost": lambda t: {k: v for k, v in t.items() if "h.1.attn.c_attn.weight" not in k},
    "a tensor too many": lambda t: {**t, "h.9.ln_1.bias": torch.zeros(64)},
    "a tensor in no shape": lambda t: {**t, next(iter(t)): torch.tensor(1.0)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_no_other_size(damage: str, checkpoint: str, tmp_path: Path) -> None:
    tensors = load_file(Path(checkpoint) / "model.safetensors")
    save_file(DAMAGE[damage](tensors), tmp_path / "d")
    message = refusal(tmp_path / "d")
    assert "model_size" not in message
    assert "Get the file again" in message


def test_good_files_pass_whatever_they_are_called(checkpoint: str, tmp_path: Path) -> None:
    original = Path(checkpoint) / "model.safetensors"
    config = ExperimentConfig(model_size=TINY)
    for name in ("pytorch_model.bin", "model.ckpt", "a.json", "adapter_model.bin"):
        (tmp_path / name).write_bytes(original.read_bytes())
        find_weights(replace(config, weights=str(tmp_path / name)))
    tensors = load_file(original)
    save_file(tensors, tmp_path / "m", {"format": "pt", "note": json.dumps({"header": 1})})
    find_weights(replace(config, weights=str(tmp_path / "m")))


def test_a_header_as_long_as_a_pickle_begins(tmp_path: Path) -> None:
    """A header of 0x280 bytes makes a file begin like a pickle of protocol 2."""
    path = tmp_path / "w"
    for n in range(1, 640):
        save_file({"wte.weight": torch.ones(2)}, path, {"note": "x" * n})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert "not a size that --model_size has" in refusal(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "cannot be read as safetensors" in refusal(path)
