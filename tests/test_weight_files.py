"""Which file weights come from, and that no other is taken for it."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from ablation.classifier.build import load_weights
from ablation.classifier.weight_files import find_weights
from ablation.config import identity
from ablation.config.identity import checksum_weights, identify_weights
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import MODEL_SIZES, PUBLISHED_WEIGHTS, GPTConfig, PublishedWeights
from ablation.system.downloads import OFFLINE_VARIABLES
from ablation.system.errors import DataError

TINY = "gpt2-tiny (3M)"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def content(checkpoint: str) -> bytes:
    return (Path(checkpoint) / "model.safetensors").read_bytes()


@pytest.fixture
def published(content: bytes, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """The tiny size has published weights, and the hub gives nothing."""
    sha256 = hashlib.sha256(content).hexdigest()
    published = PublishedWeights("somebody/gpt2-tiny", REVISION, len(content), sha256)
    monkeypatch.setitem(PUBLISHED_WEIGHTS, TINY, published)
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def refuse(*_: object, **__: object) -> str:
        raise OSError("the hub is away")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    return published


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def config_of(folder: Path | None = None, **options: object) -> ExperimentConfig:
    return ExperimentConfig(model_size=TINY, weights_dir=folder and str(folder), **options)


def refusal(config: ExperimentConfig) -> str:
    with pytest.raises(DataError) as error:
        load_weights(config)
    return str(error.value)


# ---------------------------------------------------------------- the table


def count_parameters(shape: GPTConfig) -> int:
    """A block has two norms, and four linear layers of 3, 1, 4 and 4 times D² weights."""
    d = shape.emb_dim
    block = 12 * d * d + (3 + 1 + 4 + 1) * d + 4 * d
    return (shape.vocab_size + shape.context_length) * d + shape.n_layers * block + 2 * d


@pytest.mark.parametrize("size", PUBLISHED_WEIGHTS)
def test_sizes_are_those_of_their_tensors(size: str) -> None:
    """All float32, with a mask in each block; a header has some 90 bytes for each tensor."""
    shape, published = MODEL_SIZES[size], PUBLISHED_WEIGHTS[size]
    n_masks = shape.n_layers * shape.context_length**2
    header = published.n_bytes - 4 * (count_parameters(shape) + n_masks)
    n_tensors = 13 * shape.n_layers + 4
    assert 70 * n_tensors < header < 100 * n_tensors
    assert len(bytes.fromhex(published.sha256)) == 32
    assert len(bytes.fromhex(published.revision)) == 20


def test_no_two_sizes_are_the_same_file() -> None:
    assert len(PUBLISHED_WEIGHTS) == 4
    for name in ("repository", "revision", "n_bytes", "sha256"):
        assert len({getattr(one, name) for one in PUBLISHED_WEIGHTS.values()}) == 4


# ---------------------------------------------------------------- published weights


def test_the_right_file_is_taken(
    published: PublishedWeights, content: bytes, tmp_path: Path
) -> None:
    path = put(tmp_path / "gpt2-tiny" / "model.safetensors", content)
    assert find_weights(config_of(tmp_path)) == path
    assert load_weights(config_of(tmp_path)).config == MODEL_SIZES[TINY]
    assert identify_weights(config_of(), find_weights) == {
        "weights": "pretrained",
        "file_sha256": published.sha256,
        "repository": "somebody/gpt2-tiny",
        "revision": REVISION,
    }


def noise(content: bytes) -> bytes:
    """The same shapes, and other numbers."""
    n_header = 8 + int.from_bytes(content[:8], "little")
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn((len(content) - n_header) // 4, generator=generator)
    return content[:n_header] + numbers.numpy().tobytes()


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "noise": noise,
    "one bit": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_file_is_refused_in_words(
    wrong: str, published: PublishedWeights, content: bytes, tmp_path: Path
) -> None:
    other = WRONG[wrong](content)
    path = put(tmp_path / "gpt2-tiny" / "model.safetensors", other)
    message = refusal(config_of(tmp_path))
    assert f"{path} is not the model.safetensors of somebody/gpt2-tiny" in message
    if len(other) == len(content):
        expected = (hashlib.sha256(other).hexdigest(), published.sha256)
    else:
        expected = (f"{len(other):,} bytes", f"{len(content):,} bytes")
    assert all(text in message for text in expected)
    assert f"Move {path} away to have the right file downloaded" in message
    assert "--weights PATH" in message


def test_the_size_is_looked_at_first(
    published: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(put(tmp_path / "gpt2-tiny" / "other", b"").with_name("model.safetensors"))
    monkeypatch.setattr(identity, "checksum_file", None)
    assert "found 0 bytes" in refusal(config_of(tmp_path)), "and nobody waits for a pipe"


def test_a_pointer_is_named(published: PublishedWeights, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n"
    put(tmp_path / "gpt2-tiny" / "model.safetensors", pointer)
    message = refusal(config_of(tmp_path))
    assert "It is a git-lfs pointer" in message
    assert f'"git lfs pull" in {tmp_path / "gpt2-tiny"}' in message


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("name", ["models--somebody--gpt2-tiny", "models--gpt2-tiny"])
def test_the_cache_serves_both_names(
    name: str, offline: bool, published: PublishedWeights, content: bytes, cache: Path
) -> None:
    path = put(cache / name / "snapshots" / REVISION / "model.safetensors", content)
    assert find_weights(config_of(offline=offline)) == path
    assert find_weights(config_of(cache / "elsewhere", offline=offline)) == path


def test_another_revision_in_the_cache_is_none(
    published: PublishedWeights, content: bytes, cache: Path
) -> None:
    put(cache / "models--gpt2-tiny" / "snapshots" / ("f" * 40) / "model.safetensors", content)
    assert "the hub is away" in refusal(config_of())
    assert "this is offline" in refusal(config_of(offline=True))


def test_a_wrong_file_in_the_cache_is_refused(
    published: PublishedWeights, content: bytes, cache: Path
) -> None:
    folder = cache / "models--somebody--gpt2-tiny"
    put(folder / "snapshots" / REVISION / "model.safetensors", noise(content))
    assert f"Move {folder} away" in refusal(config_of())


def test_a_download_is_checked(
    published: PublishedWeights,
    content: bytes,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def download(repository: str, name: str, revision: str, local_dir: Path | None) -> str:
        asked.append((repository, revision, local_dir))
        return str(put((local_dir or tmp_path) / name, contents.pop()))

    contents = [content, noise(content)]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert published.sha256 in refusal(config_of(tmp_path / "first"))
    assert find_weights(config_of(tmp_path / "second")).read_bytes() == content
    assert find_weights(config_of(tmp_path / "second")), "what is there is not downloaded again"
    folders = [tmp_path / name / "gpt2-tiny" for name in ("first", "second")]
    assert asked == [("somebody/gpt2-tiny", REVISION, folder) for folder in folders]


# ---------------------------------------------------------------- a file of one's own


def test_a_file_or_a_folder(content: bytes, tmp_path: Path) -> None:
    config = config_of(weights=str(tmp_path))
    with pytest.raises(DataError, match="0 other safetensors files"):
        find_weights(config)
    other = put(tmp_path / "mine.safetensors", content)
    assert find_weights(config) == other
    assert find_weights(replace(config, weights=str(other))) == other
    put(tmp_path / "second.safetensors", content)
    with pytest.raises(DataError, match="2 other safetensors files"):
        find_weights(config)
    model = put(tmp_path / "model.safetensors", content)
    assert find_weights(config) == model
    assert identify_weights(config, find_weights) == {
        "weights": str(tmp_path),
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_weights(config_of(weights=str(tmp_path / "pipe")))
    with pytest.raises(DataError, match="No such file"):
        find_weights(config_of(weights=str(tmp_path / "nothing")))


def test_random_weights_are_known_by_what_makes_them() -> None:
    assert identify_weights(config_of(weights="random", seed=7), find_weights) == {
        "weights": "random",
        "seed": 7,
        "torch": torch.__version__.partition("+")[0],
    }


# ---------------------------------------------------------------- checksums


def test_a_checksum_is_computed_once_for_a_file_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    real = identity.checksum_file
    monkeypatch.setattr(identity, "checksum_file", lambda p: computed.append(p) or real(p))
    monkeypatch.setattr(identity, "SETTLED_SECONDS", -1)
    path = put(tmp_path / "a", b"first")
    assert checksum_weights(path) == hashlib.sha256(b"first").hexdigest()
    checksum_weights(path)
    assert len(computed) == 1
    put(path, b"other")
    os.utime(path, (1e9, 1e9))
    assert checksum_weights(path) == hashlib.sha256(b"other").hexdigest()
    put(tmp_path / "b", b"third").replace(path)
    assert checksum_weights(path) == hashlib.sha256(b"third").hexdigest()


def test_a_file_that_has_just_changed_is_read_each_time(tmp_path: Path) -> None:
    """Two changes within a tick of the clock leave the same times."""
    path = tmp_path / "a"
    for n in range(200):
        content = b"%04d" % n
        path.write_bytes(content)
        assert checksum_weights(path) == hashlib.sha256(content).hexdigest()


def test_the_hub_is_not_asked_for_what_is_there(
    published: PublishedWeights, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "gpt2-tiny" / "model.safetensors", content)
    with caplog.at_level(logging.INFO, logger="experiments"):
        find_weights(config_of(tmp_path))
    assert caplog.text == ""
