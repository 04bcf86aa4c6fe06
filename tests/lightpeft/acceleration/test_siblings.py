"""Layers that read the same input are computed together, and each by itself where it has to be."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import lightpeft
from lightpeft.modeling.families import list_siblings
from lightpeft.profiling.kernels import count_kernels

Call = Callable[["Attention", Tensor, Tensor], list[Tensor]]


class Attention(nn.Module):
    """Linears that are called as a test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.call: Call = call_all

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return self.call(self, x, y)


def call_all(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    return [layer.query(x), layer.key(x), layer.value(x)]


def call_some(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    return [layer.value(x), layer.query(x)]


def call_with_others(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    return [layer.query(x), layer.key(y), layer.value(y)]


def call_twice(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    return [layer.query(x), layer.query(x), layer.key(y), layer.key(x), layer.value(x)]


def change_in_place(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
    return [layer.query(x).mul_(2), layer.key(x).add_(layer.value(x))]


CALLS: list[Call] = [call_all, call_some, call_with_others, call_twice, change_in_place]


def make_stock(**changes: object) -> PeftModel:
    torch.manual_seed(0)
    lora = LoraConfig(
        **{"r": 2, "target_modules": ["query", "key", "value"], "init_lora_weights": False}
        | changes
    )
    return get_peft_model(nn.Sequential(Attention()), lora)


def get_attention(model: PeftModel) -> Attention:
    return model.base_model.model[0]


def run(model: PeftModel) -> list[Tensor | None]:
    """Return the outputs and the gradients of the inputs and adapters."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 6, generator=generator).requires_grad_() for _ in range(2)]
    model.zero_grad()
    torch.manual_seed(0)
    outputs = get_attention(model)(*inputs)
    sum((i + 1) * output.square().sum() for i, output in enumerate(outputs)).backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return [*outputs, *(leaf.grad for leaf in (*inputs, *trained))]


def assert_is_as_stock(model: PeftModel, stock: PeftModel) -> None:
    for got, expected in zip(run(model), run(stock), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("call", CALLS)
def test_any_calls_give_what_stock_gives(call: Call):
    stock = make_stock()
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    for each in (stock, model):
        get_attention(each).call = call

    assert_is_as_stock(model, stock)


def set_dropout(model: PeftModel) -> None:
    get_attention(model).key.lora_dropout["default"] = nn.Dropout(0.5)


def disable(model: PeftModel) -> None:
    get_attention(model).query.enable_adapters(False)


def merge(model: PeftModel) -> None:
    get_attention(model).value.merge()


def hook_input(model: PeftModel) -> None:
    get_attention(model).key.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)


def hook_gradient(model: PeftModel) -> None:
    hook = lambda module, inputs, outputs: (inputs[0] * 2,)  # noqa: E731
    get_attention(model).query.register_full_backward_hook(hook)


def freeze(model: PeftModel) -> None:
    get_attention(model).key.lora_A["default"].weight.requires_grad_(False)
    get_attention(model).query.lora_B["default"].weight.requires_grad_(False)


@pytest.mark.parametrize("change", [set_dropout, disable, merge, hook_input, hook_gradient, freeze])
def test_layers_may_differ_in_state(change: Callable[[PeftModel], None]):
    stock = make_stock()
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    for each in (stock, model):
        change(each)

    assert_is_as_stock(model, stock)


@pytest.mark.parametrize(
    "changes", [{"rank_pattern": {"key": 3}}, {"target_modules": ["query", "value"]}]
)
def test_layers_may_have_other_ranks_or_no_adapter(changes: dict[str, object]):
    stock = make_stock(**changes)
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)

    assert_is_as_stock(model, stock)


def test_together_they_take_eighteen_products():
    """One by one, they take 24, and 2 to add the gradients of the input."""
    model = make_stock().bfloat16()
    lightpeft.accelerate(model)
    x = torch.randn(2, 6, dtype=torch.bfloat16, requires_grad=True)

    def step() -> None:
        outputs = get_attention(model)(x, x)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    step()
    kernels = count_kernels(step)

    assert sum(kernels[name] for name in ("mm", "addmm", "addmm_")) == 18
    assert (
        kernels.total() == 18 + 3 + 3 + 7
    )  # of outputs, scaling and copying adapters, sums of gradients


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_after_the_forward_pass(fails: bool):
    model = make_stock()
    lightpeft.accelerate(model)
    attention = get_attention(model)

    def call(layer: Attention, x: Tensor, y: Tensor) -> list[Tensor]:
        query = layer.query(x)
        if fails:
            raise ValueError
        return [query]

    attention.call = call
    x = torch.randn(2, 6)
    try:
        attention(x, x)
    except ValueError:
        assert fails

    for siblings in attention.siblings:
        assert siblings._x is None
        assert not siblings._outputs


def test_of_cross_attention_only_key_and_value_read_the_same_input():
    keys = {names for names in list_siblings("decoder.layers.0.encoder_attn") if "k_proj" in names}

    assert keys == {("k_proj", "v_proj")}
    assert ("q_proj", "k_proj", "v_proj") in list_siblings("decoder.layers.0.self_attn")
    assert ("gate_proj", "up_proj") in list_siblings("layers.0.mlp")
