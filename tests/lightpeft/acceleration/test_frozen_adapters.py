"""Of an accelerated model too, adapters that are frozen get no gradient, and no graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers.tiny_models import make_lora, make_tiny_batch, make_tiny_model
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

import lightpeft


def make_model(frozen: str, **changes: object) -> PeftModel:
    """A classifier without dropout, whose adapters are frozen where a name says so."""
    torch.manual_seed(0)
    base = make_tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = get_peft_model(base, make_lora(init_lora_weights=False, **changes))
    for name, weight in model.named_parameters():
        if frozen in name:
            weight.requires_grad_(False)
    return model.train()


def test_layers_below_the_lowest_trained_adapter_keep_no_graph():
    model = make_model("layer.0.")
    lightpeft.accelerate(model)
    seen: list[bool] = []
    for layer in model.get_base_model().bert.encoder.layer:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(is_trained(output)))

    model(**make_tiny_batch())

    assert seen == [False, True, True]


def is_trained(output: Any) -> bool:
    return (output if isinstance(output, Tensor) else output[0]).requires_grad


@pytest.mark.parametrize("frozen", ["layer.0.", "lora_A"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_stock(frozen: str, checkpointed: bool):
    stock = make_model(frozen)
    model = copy.deepcopy(stock)
    lightpeft.accelerate(model)
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})

    for run in (stock, model):
        run(**make_tiny_batch()).loss.backward()

    for got, expected in zip(model.parameters(), stock.parameters(), strict=True):
        assert (got.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-6)


class _StopsGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


def test_a_loss_without_gradients_gives_none():
    model = make_model("nothing")
    lightpeft.accelerate(model)
    body: nn.Module = model.get_base_model().bert
    batch = make_tiny_batch()
    del batch["labels"]

    _StopsGradients.apply(body(**batch).last_hidden_state).sum().backward()

    assert all(weight.grad is None for weight in body.parameters())
