"""Healing: what stands in for the pruned columns of an output projection."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from experiments.healing import Correction, compute_correction, correct_adapter

KEPT = torch.tensor([0, 2, 3, 5])
GONE = torch.tensor([1, 4])


def make_inputs(*, dependent: bool) -> Tensor:
    """Make rows of six inputs, of which the pruned ones follow from the kept ones or do not."""
    torch.manual_seed(0)
    x = torch.randn(200, 6, dtype=torch.float64) + 0.5
    if dependent:
        x[:, GONE] = x[:, KEPT] @ torch.randn(4, 2, dtype=torch.float64)
    return x


def correct(x: Tensor, weight: Tensor, ridge: float = 0.01) -> Correction:
    return compute_correction(weight, x.T @ x / len(x), x.mean(0), KEPT, ridge)


def make_layer(rank: int) -> nn.Module:
    """Make a LoRA layer of the kept columns that has learned something."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"])
    (layer,) = inject_adapter_in_model(config, nn.Sequential(nn.Linear(4, 5, bias=False)))
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer.double()


def test_columns_that_follow_from_the_kept_ones_are_replaced_exactly():
    x, weight = make_inputs(dependent=True), torch.randn(5, 6, dtype=torch.float64)
    healed = weight[:, KEPT] + correct(x, weight, ridge=0.0).weight
    torch.testing.assert_close(x[:, KEPT] @ healed.T, x @ weight.T)


@pytest.mark.parametrize("dependent", [True, False])
def test_healed_error_is_smaller_on_the_rows_of_the_moments(dependent: bool):
    x, weight = make_inputs(dependent=dependent), torch.randn(5, 6, dtype=torch.float64)
    correction = correct(x, weight)
    expected, pruned = x @ weight.T, x[:, KEPT] @ weight[:, KEPT].T
    errors = [
        float((expected - y).square().mean())
        for y in (pruned, pruned + x[:, KEPT] @ correction.weight.T, pruned + correction.bias)
    ]
    assert max(errors[1:]) < errors[0]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_adapter_of_full_rank_is_the_correction_and_what_it_learned(rank: int):
    x, weight = make_inputs(dependent=False), torch.randn(5, 6, dtype=torch.float64)
    layer, correction = make_layer(rank), correct(x, weight)
    wanted = correction.weight + layer.get_delta_weight("default").detach()
    correct_adapter(layer, correction)

    error = (layer.get_delta_weight("default").detach() - wanted) @ x[:, KEPT].T
    if rank == 4:
        torch.testing.assert_close(error, torch.zeros_like(error))
    assert error.square().mean() < (wanted @ x[:, KEPT].T).square().mean()


def test_an_adapter_that_has_nothing_to_correct_stays_zero():
    x, layer = make_inputs(dependent=False), make_layer(2)
    nn.init.zeros_(layer.lora_B["default"].weight)
    correct_adapter(layer, correct(x, torch.zeros(5, 6, dtype=torch.float64)))
    assert layer.get_delta_weight("default").abs().max() == 0
