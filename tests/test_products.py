"""Products by oneDNN against float64, and when PyTorch's own are left to it."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ablation.config.options import ExperimentConfig
from ablation.system import products
from ablation.system.products import LARGE, Linear, linear
from ablation.system.version import PROJECT
from gpt_model import GPTModel

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)
OUT, IN = 520, 512  # just large enough
assert OUT * (IN - 10) < LARGE <= OUT * IN


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is faster."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the weights that oneDNN multiplies with."""
    multiply, seen = products._multiply, []

    def follow(rows: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(weight.shape))
        return multiply(rows, weight, *bias)

    monkeypatch.setattr(products, "_multiply", follow)
    return seen


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (8,), (3, 7), (4, 1)], ids=str)
def test_equals_float64(shape: tuple[int, ...], with_bias: bool, calls: list) -> None:
    torch.manual_seed(0)
    wide = torch.randn(*shape, 2 * IN)
    given = [wide[..., ::2], torch.randn(OUT, IN), torch.randn(OUT) if with_bias else None]
    weight_of_sum = torch.randn(*shape, OUT)

    def results(function: object, dtype: torch.dtype) -> list[torch.Tensor]:
        tensors = [t if t is None else t.detach().to(dtype).requires_grad_() for t in given]
        outputs = function(*tensors)
        (outputs * weight_of_sum.to(dtype)).sum().backward()
        return [outputs.detach(), *(t.grad for t in tensors if t is not None)]

    found, expected = results(linear, torch.float32), results(F.linear, torch.float64)
    assert len(calls) == 3, "outputs, and the gradients of inputs and weight"
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("trains", ["inputs", "weight", "bias"])
def test_only_gradients_that_are_asked_for_are_computed(trains: str, calls: list) -> None:
    tensors = {
        "inputs": torch.randn(3, IN),
        "weight": torch.randn(OUT, IN),
        "bias": torch.randn(OUT),
    }
    tensors[trains].requires_grad_()
    linear(*tensors.values()).sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == [trains]
    assert len(calls) == (1 if trains == "bias" else 2)


def test_weights_may_change_once_their_gradient_is_there() -> None:
    """As the optimizer does it, within the backward pass."""
    first, second = Linear(IN, OUT), Linear(OUT, IN)
    plain = torch.nn.Sequential(torch.nn.Linear(IN, OUT), torch.nn.Linear(OUT, IN))
    plain.load_state_dict(torch.nn.Sequential(first, second).state_dict())
    rows = torch.randn(4, IN)
    plain(rows).pow(2).sum().backward()

    def spoil(parameter: torch.Tensor) -> None:
        with torch.no_grad():
            parameter.zero_()

    second.weight.register_post_accumulate_grad_hook(spoil)
    second(first(rows)).pow(2).sum().backward()
    assert not second.weight.any()
    expected = plain[0].weight.grad
    torch.testing.assert_close(first.weight.grad, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("shape", [(OUT, IN - 10), (OUT, IN)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_everything_else_is_left_to_pytorch(
    shape: tuple[int, int], dtype: torch.dtype, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weight = torch.randn(2, shape[1], dtype=dtype), torch.randn(shape, dtype=dtype)
    is_large_and_single = weight.numel() >= LARGE and dtype == torch.float32
    linear(rows, weight)
    assert len(calls) == is_large_and_single
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows, weight).dtype in (torch.bfloat16, torch.float64)
    linear(rows.to("meta"), weight.to("meta"))
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    assert torch.equal(linear(rows, weight), F.linear(rows, weight))
    assert not calls


def test_a_block_of_gpt2_small_uses_it_for_all_its_matrices(calls: list) -> None:
    gpt = ExperimentConfig().gpt
    with torch.device("meta"):
        model = GPTModel(gpt)
    block = model.blocks[0].to_empty(device="cpu")
    with torch.no_grad():
        block(torch.zeros(1, 2, gpt.emb_dim))
    d = gpt.emb_dim
    assert sorted(calls) == sorted([*4 * [(d, d)], (4 * d, d), (d, 4 * d)])


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n", "AVX512", True),
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n", "AVX2", False),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\n", "AVX512", False),
        ("processor\t: 0\nBogoMIPS\t: 48.00\n", "DEFAULT", False),  # an ARM
        (None, "AVX512", False),
    ],
)
def test_it_is_for_processors_that_mkl_does_not_use_whole(
    cpuinfo: str | None, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    read = Path.read_text

    def read_text(path: Path, *arguments: object, **named: object) -> str:
        if str(path) != "/proc/cpuinfo":
            return read(path, *arguments, **named)
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(products.platform, "processor", lambda: "")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    products.onednn_is_faster.cache_clear()
    try:
        assert products.onednn_is_faster() is expected
    finally:
        products.onednn_is_faster.cache_clear()


MAPPED = """
import ctypes, torch
from ablation.system.machine import keep_freed_memory

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = MallInfo

def mapped_for(n_bytes):
    before = mallinfo().hblkhd
    block = torch.empty(n_bytes, dtype=torch.uint8)
    return mallinfo().hblkhd - before

first = mapped_for(30_000_000) if BEFORE else 0
keep_freed_memory()
print(first, mapped_for(30_000_000))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc, or an old one")
def test_freed_memory_is_kept() -> None:
    """A block that is not mapped by itself stays with the process when it is freed. In a process of
    its own, as the first block that is freed changes it, too."""

    def run(before: bool) -> list[int]:
        command = [sys.executable, "-c", MAPPED.replace("BEFORE", str(before))]
        printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        return [int(number) for number in printed.stdout.split()]

    assert run(before=True)[0] >= 30_000_000, "what the function is for"
    assert run(before=False) == [0, 0]
