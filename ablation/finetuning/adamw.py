"""AdamW, layer by layer within the backward pass.

Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization" (2019).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ablation.system.parallel import add_gradients, size
from gpt_model import GPTModel

DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}


def trained_parts(gpt: GPTModel) -> list[list[nn.Parameter]]:
    """The trainable parameters of each block, and of every other part."""
    others = [module for module in gpt.children() if module is not gpt.blocks]
    parts = ([p for p in part.parameters() if p.requires_grad] for part in (*gpt.blocks, *others))
    return [trained for trained in parts if trained]


class AdamWInBackward:
    """AdamW that updates each layer of a model as soon as its gradients are complete.

    They are freed at once, so that the gradients of a large model never are in memory together,
    and in a small one each layer's reuse the memory of the last, which is still in the cache.
    Several processes exchange gradients block by block, in fewer and larger messages.
    Backward passes add up gradients as usual, and update only within :meth:`last_pass`. Used in
    a ``with`` statement, at whose end it lets go of the model.
    """

    def __init__(self, gpt: GPTModel, learning_rate: float, weight_decay: float) -> None:
        self._options = {**DEFAULTS, "lr": learning_rate, "weight_decay": weight_decay}
        self._parts = trained_parts(gpt)
        own = ([*module.parameters(recurse=False)] for module in gpt.modules())
        self._layers = [[p for p in layer if p.requires_grad] for layer in own]
        if size() > 1:
            self._layers = self._parts
        self._moments = {
            p: {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
            for part in self._parts
            for p in part
        }
        self._n_missing: list[int] | None = None  # gradients of each layer, in the last pass
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _, i=i: self._count(i))
            for i, layer in enumerate(self._layers)
            for parameter in layer
        ]

    def __enter__(self) -> "AdamWInBackward":
        return self

    def __exit__(self, *exception: object) -> None:
        # Hooks hold the optimizer, which holds the parameters: a circle that no collector sees.
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def last_pass(self) -> Iterator[None]:
        """The backward pass inside completes the gradients and updates the weights."""
        self._n_missing = [len(layer) for layer in self._layers]
        yield
        # A layer is left over if not all of its parameters took part in the loss.
        for i, n_missing in enumerate(self._n_missing):
            if n_missing:
                self._update(i)
        self._n_missing = None

    def _count(self, i: int) -> None:
        if self._n_missing is not None:
            self._n_missing[i] -= 1
            if not self._n_missing[i]:
                self._update(i)

    @torch.no_grad()
    def _update(self, i: int) -> None:
        layer = [parameter for parameter in self._layers[i] if parameter.grad is not None]
        if not layer:
            return
        add_gradients(layer)
        moments = [self._moments[parameter] for parameter in layer]
        # The function, as torch.optim.AdamW takes a second to import PyTorch's compiler.
        adamw(
            layer,
            [parameter.grad for parameter in layer],
            *([of[name] for of in moments] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[of["step"] for of in moments],
            fused=True,
            **self._options,
        )
        for parameter in layer:
            parameter.grad = None

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers of each parameter, by its place and name: 0.12.exp_avg."""
        return {
            f"{i}.{j}.{name}": tensor
            for i, part in enumerate(self._parts)
            for j, parameter in enumerate(part)
            for name, tensor in self._moments[parameter].items()
        }

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`moments` gave."""
        for key, tensor in moments.items():
            i, j, name = key.split(".")
            parameter = self._parts[int(i)][int(j)]
            self._moments[parameter][name] = tensor.to(parameter.device)
