import copy
import math

import pytest
import torch
from torch import nn

from ablation.config.sizes import GPTConfig
from gpt_model import GPTModel
from lora import LoRALinear, MergedLoRALinear, inject_lora

FORMS = [LoRALinear, MergedLoRALinear]
TOKENS = torch.arange(12).view(2, 6)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


@pytest.fixture
def model(gpt_config: GPTConfig) -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(gpt_config).double().requires_grad_(False)


def with_random_b(model: GPTModel, layer: type[LoRALinear], alpha: float = 3.0) -> GPTModel:
    inject_lora(model, rank=2, alpha=alpha, layer=layer)
    torch.manual_seed(5)
    with torch.no_grad():
        for lora in lora_layers(model).values():
            lora.B.normal_()
    return model


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Put the one ``Linear`` of its weight and bias in place of each LoRA layer."""
    for name, lora in lora_layers(model).items():
        lora.linear.weight.copy_(lora.weight)
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, lora.linear)


@pytest.mark.parametrize("form", FORMS)
def test_formula(form: type[LoRALinear]) -> None:
    torch.manual_seed(0)
    lora = form(nn.Linear(5, 7).double(), rank=3, alpha=16)
    assert torch.equal(lora.B, torch.zeros(3, 7, dtype=torch.float64))
    with torch.no_grad():
        lora.B.normal_()
    x = torch.randn(4, 5, dtype=torch.float64)
    weight, bias = lora.linear.weight, lora.linear.bias
    expected = torch.stack([weight @ row + bias + 16 * (lora.B.T @ (lora.A.T @ row)) for row in x])
    torch.testing.assert_close(lora(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_injected_model_starts_as_it_was(model: GPTModel, form: type[LoRALinear]) -> None:
    before = model(TOKENS)
    inject_lora(model, rank=2, alpha=8, layer=form)
    assert torch.equal(model(TOKENS), before)


def test_both_forms_are_the_same_function(model: GPTModel) -> None:
    first = with_random_b(copy.deepcopy(model), LoRALinear)
    second = with_random_b(model, MergedLoRALinear)
    # The second model's matrices differ from the first's: give it the same.
    second.load_state_dict(first.state_dict())
    logits = [m(TOKENS) for m in (first, second)]
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-12)
    for output in logits:
        output.square().sum().backward()
    for name, lora in lora_layers(first).items():
        other = second.get_submodule(name)
        torch.testing.assert_close(lora.A.grad, other.A.grad, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(lora.B.grad, other.B.grad, rtol=1e-9, atol=1e-9)


def test_injection_reaches_every_depth_in_module_order(model: GPTModel) -> None:
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 3 * 6 + 1
    assert linears[-1] == "head"
    shapes = {name: model.get_submodule(name).weight.shape for name in linears}
    torch.manual_seed(9)
    inject_lora(model, rank=2, alpha=8)
    assert list(lora_layers(model)) == linears
    torch.manual_seed(9)
    for name, lora in lora_layers(model).items():
        n_out, n_in = shapes[name]
        # kaiming_uniform_(a=sqrt(5)) on an (in, rank) tensor: its fan-in is the rank
        bound = 1 / math.sqrt(2)
        drawn = torch.empty(n_in, 2, dtype=torch.float64).uniform_(-bound, bound)
        torch.testing.assert_close(lora.A.detach(), drawn, rtol=1e-12, atol=0)
        assert lora.B.shape == (2, n_out)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_leaves_the_base_alone(model: GPTModel, form: type[LoRALinear]) -> None:
    inject_lora(model, rank=2, alpha=8, layer=form)
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    matrices = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert len(matrices) == 2 * 19
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(TOKENS).square().sum().backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert all(not torch.equal(after[name], v) for name, v in matrices.items() if ".B" in name)


@pytest.mark.parametrize("form", FORMS)
def test_merged_equals_unmerged(model: GPTModel, form: type[LoRALinear]) -> None:
    plain_logits = model(TOKENS)
    names = {name for name, _ in model.named_parameters()}
    with_random_b(model, form)
    logits = model(TOKENS)
    assert not torch.allclose(logits, plain_logits)
    merge_lora(model)
    assert {name for name, _ in model.named_parameters()} == names
    torch.testing.assert_close(model(TOKENS), logits, rtol=1e-10, atol=1e-12)
    merge_lora(model)  # a second time changes nothing
    torch.testing.assert_close(model(TOKENS), logits, rtol=1e-10, atol=1e-12)
