"""What an accelerated model does not do as stock does, as docs/acceleration.md says."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import make_pruned_model, make_tiny_batch

import lightpeft


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
