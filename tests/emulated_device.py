"""A GPU for tests of placement on a machine that has none: computed by the CPU, held apart from it.

Inside :func:`emulated_card`, ``cuda`` is a device. Its tensors are ordinary ones whose storage has
a mark, so autograd, optimizers and kernels are the CPU's, and every result is the CPU's, bit by
bit. Two modes of PyTorch keep up the appearance:

- ``_Places`` sees functions by their Python names: it answers ``.device``, carries out moves
  (``to``, ``cpu``) as copies, and marks what is created with ``device=``.
- ``_Operands`` sees every operator, those of backward passes included: it refuses operands that lie
  on two devices, where CUDA refuses them, and marks results.

What CUDA allows is allowed: a scalar tensor of the CPU where an operator works element by element,
indices on the CPU into a tensor on the card, and copies. Not emulated: CUDA's kernels, their
speed, their rounding and their memory.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 10**12  # bytes, free and at its peak
# What PyTorch says of the card.
CUDA = {
    "is_available": lambda: True,
    "is_bf16_supported": lambda: True,
    "device_count": lambda: 1,
    "mem_get_info": lambda device=None: (MEMORY, MEMORY),
    "reset_peak_memory_stats": lambda device=None: None,
    "max_memory_allocated": lambda device=None: MEMORY,
    "get_device_name": lambda device=None: "emulated card",
    "synchronize": lambda device=None: None,
    "empty_cache": lambda: None,
}
# Operators whose first operand has the device of the result; the others may be on the CPU ...
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPYING = {"copy_", "_to_copy", "set_"}  # ... or anywhere


def is_on_card(tensor: Tensor) -> bool:
    """Whether the storage of a tensor has the mark."""
    return getattr(tensor.untyped_storage(), "on_card", False)


def mark(tensor: Tensor, on_card: bool) -> Tensor:
    """Have a tensor, and all that share its storage, lie on the card or not."""
    tensor.untyped_storage().on_card = on_card
    return tensor


def _device_of(tensor: Tensor) -> torch.device:
    device = torch._C.TensorBase.device.__get__(tensor)
    return CARD if device == CPU and is_on_card(tensor) else device


class _Places(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return _device_of(*args)
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and is_on_card(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        if func == torch.Tensor.register_post_accumulate_grad_hook:
            return func(args[0], lambda parameter: self._run(args[1], parameter))
        if func == torch.Tensor.cpu:
            return _move(args[0], CPU)
        if func == torch.Tensor.to:
            return _to(*args, **kwargs)
        device = kwargs.get("device") and torch.device(kwargs["device"])
        if device is None or device.type == "meta":
            return func(*args, **kwargs)
        return mark(func(*args, **{**kwargs, "device": CPU}), device.type == CARD.type)

    def _run(self, hook: Callable, parameter: Tensor) -> None:
        """Backward passes leave this mode, and not the other."""
        with self:
            hook(parameter)


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``: what names a device is taken out, and the tensor goes there."""
    target = None
    arguments = [*args, *kwargs.values()]
    for argument in arguments:
        if isinstance(argument, Tensor):
            target = _device_of(argument)
        elif isinstance(argument, str | torch.device):
            target = torch.device(argument)

    def real(argument: Any) -> Any:
        return CPU if isinstance(argument, str | torch.device) else argument

    if target is None or target.type == "meta":
        return tensor.to(*args, **kwargs)
    cast = tensor.to(*map(real, args), **{name: real(value) for name, value in kwargs.items()})
    return _move(cast, target)


def _move(tensor: Tensor, target: torch.device) -> Tensor:
    if (target.type == CARD.type) == is_on_card(tensor):
        return tensor
    assert not (tensor.requires_grad and torch.is_grad_enabled()), "no gradient flows over a move"
    return mark(tensor.detach().clone(), target.type == CARD.type)


class _Operands(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled, and skipping takes longer than the operators do

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        on_card = _place_result(func, list(_tensors([*args, *kwargs.values()])))
        found = func(*args, **kwargs)
        for tensor in _tensors([found]) if on_card else ():
            mark(tensor, True)
        return found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments or results, and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _place_result(func: Any, tensors: list[Tensor]) -> bool:
    """Whether an operator's result lies on the card. Raises what CUDA raises where it refuses."""
    name = func.overloadpacket.__name__
    on_card = [is_on_card(tensor) for tensor in tensors]
    if not any(on_card):
        return False
    if name in COPYING:
        return on_card[0]
    is_element_wise = torch.Tag.pointwise in func.tags or name in ("masked_fill", "masked_fill_")
    for tensor, here in zip(tensors[1:], on_card[1:], strict=True):
        is_index = name in INDEXING and not tensor.is_floating_point()
        is_scalar = tensor.dim() == 0 and (is_element_wise or name in INDEXING)
        if not here and not is_index and not is_scalar:
            _refuse(name)
    if not on_card[0] and (not is_element_wise or tensors[0].dim() or func._schema.is_mutable):
        _refuse(name)
    return True


def _refuse(name: str) -> None:
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        f"and cpu! (in {name})"
    )


@contextmanager
def emulated_card() -> Iterator[None]:
    """Inside, PyTorch has one CUDA device, which is none."""
    autocast = torch.autocast
    with (
        mock.patch.multiple(torch.cuda, **CUDA),
        mock.patch.object(torch, "autocast", lambda kind, *a, **k: autocast("cpu", *a, **k)),
        _Operands(),
        _Places(),
    ):
        yield
