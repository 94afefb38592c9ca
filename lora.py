"""LoRA: a frozen linear layer plus a trainable product of two thin matrices.

Source: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021),
section 4.1. Unlike there, ``alpha`` multiplies as it is, not divided by the rank.
"""

import math

import torch
from torch import Tensor, nn

from ablation.system.products import linear


class LoRALinear(nn.Module):
    """``linear(x) + alpha * x A B`` with ``A`` (in, rank) and ``B`` (rank, out).

    ``B`` starts at zero, so the layer starts as ``linear``. Both matrices have the dtype
    and the device of its weight.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.alpha = alpha
        self.A = nn.Parameter(linear.weight.new_empty(linear.in_features, rank))
        self.B = nn.Parameter(linear.weight.new_zeros(rank, linear.out_features))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        rows = inputs.flatten(0, -2)  # (N, in)
        # linear(x) + alpha * (x A) B in one call, which reads and writes the outputs once.
        outputs = torch.addmm(self.linear(rows), rows @ self.A, self.B, alpha=self.alpha)
        return outputs.unflatten(0, inputs.shape[:-1])

    @property
    def weight(self) -> Tensor:
        """The weight (out, in) of the one linear layer that computes the same."""
        return self.linear.weight + self.alpha * (self.A @ self.B).t()

    @property
    def bias(self) -> Tensor:
        """The bias (out,) of that layer."""
        return self.linear.bias


class MergedLoRALinear(LoRALinear):
    """The same function, with the product added to the weight before it is applied."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return linear(inputs, self.weight, self.bias)


def inject_lora(
    module: nn.Module, rank: int, alpha: float, layer: type[LoRALinear] = LoRALinear
) -> None:
    """Replace every ``Linear`` below ``module``, at every depth, in module order."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, layer(child, rank, alpha))
        elif not isinstance(child, LoRALinear):
            inject_lora(child, rank, alpha, layer)
