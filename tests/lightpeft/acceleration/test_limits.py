"""What an accelerated model does not do as stock does, as docs/acceleration.md says."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.tiny_models import compute_tiny_logits, make_pruned_model, make_tiny_batch
from torch import nn

import lightpeft


def has_own_forward(model: nn.Module) -> bool:
    return any("forward" in vars(module) for module in model.modules())


def test_a_merged_model_is_stock_once_it_is_undone():
    model = make_pruned_model().eval()
    expected = compute_tiny_logits(copy.deepcopy(model).merge_and_unload())
    lightpeft.accelerate(model)

    merged = model.merge_and_unload()
    assert torch.equal(compute_tiny_logits(merged), expected)
    assert has_own_forward(merged)
    lightpeft.undo_acceleration(merged)
    assert not has_own_forward(merged)
    assert torch.equal(compute_tiny_logits(merged), expected)


def test_second_derivatives_are_an_error_and_not_wrong():
    model = make_pruned_model().eval()
    model.get_base_model().set_attn_implementation("eager")
    lightpeft.accelerate(model)
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]

    loss = model(**make_tiny_batch()).loss
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    penalty = sum(gradient.square().sum() for gradient in gradients)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        penalty.backward()
