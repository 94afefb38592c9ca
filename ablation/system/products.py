"""Products with matrices of weights, by the faster of two libraries that PyTorch comes with.

PyTorch multiplies float32 with MKL, which leaves AVX-512 unused on AMD's processors. oneDNN, which
it keeps for bfloat16, uses AVX-512 there, and takes half the time: benchmarks/README.md.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Numbers of a matrix. Of a smaller one, oneDNN's calls take longer than its products save; of any
# one, the first call with other sizes takes 0.5 ms more.
LARGE = 2**18


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return linear(inputs, self.weight, self.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of inputs (..., in), a weight (out, in) and a bias (out,): (..., out)."""
    tensors = (inputs, weight)
    if (
        weight.numel() >= LARGE
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    ):
        rows = _LinearByOneDNN.apply(inputs.flatten(0, -2), weight, bias)
        return rows.unflatten(0, inputs.shape[:-1])
    return F.linear(inputs, weight, bias)


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor of AMD's with AVX-512, and PyTorch has oneDNN."""
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return torch.backends.mkldnn.is_available() and has_avx512 and _vendor() == "AuthenticAMD"


def _vendor() -> str:
    """Who made the processor, as it says itself; empty where the system does not pass that on."""
    try:
        told = Path("/proc/cpuinfo").read_text().split("vendor_id")[1].split("\n")[0]
    except (OSError, IndexError):
        told = platform.processor()  # on Windows: "AMD64 Family 25 Model 33 ..., AuthenticAMD"
    return told.split()[-1] if told else ""


class _LinearByOneDNN(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(rows, weight)
        return _multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = context.saved_tensors
        needs_rows, needs_weight, needs_bias = context.needs_input_grad
        return (
            _multiply(gradient, weight.t()) if needs_rows else None,
            _multiply(gradient.t(), rows.t()) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows (N, in) @ weight' (out, in) + bias (out,), by what torch.compile calls oneDNN with."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
