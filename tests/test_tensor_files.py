"""No file of tensors is used that is not, bit by bit, the one that was written."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ablation.classifier.tensor_files import read_tensors, write_tensors
from ablation.system.errors import TensorFileError

TENSORS = {
    "head.weight": torch.arange(6.0).reshape(2, 3),
    "head.bias": torch.tensor([1.0, -1.0, 0.5], dtype=torch.bfloat16),
    "state": torch.arange(9, dtype=torch.uint8),
    "step": torch.tensor(3),
    "empty": torch.zeros(0, 2),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
}
HEADER = {"step": 3, "name": "é"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "a", TENSORS, HEADER)
    return tmp_path / "a"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def require_refused(path: Path) -> None:
    with pytest.raises(TensorFileError, match=f"{path} is damaged"):
        read_tensors(path)


def test_what_is_written_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    header, tensors = read_tensors(path)
    assert header == HEADER
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert caplog.text == ""


def test_the_checksum_is_of_header_names_dtypes_shapes_and_bytes(path: Path) -> None:
    """Worked out from the bytes of the file."""
    content = path.read_bytes()
    n = int.from_bytes(content[:8], "little")
    described, data = json.loads(content[8 : 8 + n]), content[8 + n :]
    metadata = described.pop("__metadata__")
    dtypes = {"F32": "float32", "BF16": "bfloat16", "U8": "uint8", "I64": "int64"}
    checksum = hashlib.sha256(metadata["header"].encode())
    for name in sorted(described):
        tensor = described[name]
        shown = [name, f"torch.{dtypes[tensor['dtype']]}", tensor["shape"]]
        checksum.update(json.dumps(shown).encode())
        checksum.update(data[slice(*tensor["data_offsets"])])
    assert metadata["sha256"] == checksum.hexdigest()


def test_no_flipped_bit_is_used(path: Path) -> None:
    """Wherever it is: refused, or in what nobody reads."""
    content = path.read_bytes()
    n_header = 8 + int.from_bytes(content[:8], "little")
    harmless = 0
    for place in range(len(content)):
        for bit in (0, 3, 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                header, tensors = read_tensors(path)
            except TensorFileError:
                continue
            assert place < n_header, "a bit of a tensor"
            assert header == HEADER
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
            harmless += 1
    assert harmless < 40, "in the name of the format"


def rewrite(path: Path, tensors: dict, **changes: str | None) -> None:
    """Write other tensors or metadata, as another program would."""
    metadata = {**metadata_of(path), **changes}
    save_file(tensors, path, {name: value for name, value in metadata.items() if value is not None})


def test_swapped_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    a, b = torch.ones(4), torch.zeros(4)
    write_tensors(path, {"a": a, "b": b}, HEADER)
    rewrite(path, {"a": b, "b": a})
    require_refused(path)
    write_tensors(path, {"a": a}, HEADER)
    rewrite(path, {"a": a.reshape(2, 2)})
    require_refused(path)
    rewrite(path, {"a": a.view(torch.int32)})
    require_refused(path)
    rewrite(path, {"a": a, "b": b})
    require_refused(path)


def test_another_header_is_refused(path: Path) -> None:
    header = json.loads(metadata_of(path)["header"])
    rewrite(path, load_file(path), header=json.dumps({**header, "step": 4}))
    require_refused(path)


def test_a_checksum_that_was_taken_away_is_missed(path: Path) -> None:
    rewrite(path, load_file(path), sha256=None)
    require_refused(path)
    rewrite(path, load_file(path), sha256="0" * 64)
    require_refused(path)


def test_the_first_version_which_had_no_checksum_is_refused(path: Path) -> None:
    rewrite(path, load_file(path), header=json.dumps(HEADER), sha256=None)
    with pytest.raises(TensorFileError, match=r"lacks 'sha256'.*Delete it, and run again"):
        read_tensors(path)


def test_a_later_version_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ablation.classifier.tensor_files.VERSION", 3)
        write_tensors(path, TENSORS, HEADER)
    with pytest.raises(TensorFileError, match="has version 3 of its format, and this program"):
        read_tensors(path)


def test_what_is_missing_is_named(path: Path) -> None:
    save_file(TENSORS | {"transposed": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(TensorFileError, match="it lacks 'header'"):
        read_tensors(path)
