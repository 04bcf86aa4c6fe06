"""An accelerated model has the outputs of stock peft, and the gradients."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from helpers.architecture_matrix import build_parts, compute_logits, draw_plan, make_batch
from helpers.architectures import ARCHITECTURES, LLAMA
from peft import PeftModel
from torch import Tensor

import lightpeft
from lightpeft import PruningConfig
from lightpeft.modeling.adapters import cast_trainable_to_float32

FAST = ("bert", "falcon, new", "gpt2", LLAMA, "t5")
NOTHING = PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
NAMES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.long) for name in ARCHITECTURES
]


def make_model(name: str, *, pruned: bool, dtype: torch.dtype = torch.float32) -> PeftModel:
    """A model with random LoRA weights, in float32, on every linear of its blocks that has any."""
    base, scores = build_parts(name)
    plan = draw_plan(scores) if pruned else lightpeft.make_plan(scores, NOTHING)
    model = lightpeft.prune(base, plan, scores).to(dtype).train()
    cast_trainable_to_float32(model)
    return model


def run(model: PeftModel, name: str, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the outputs, and all gradients in one vector; of a 16-bit model under autocast."""
    in_16_bits = next(model.parameters()).dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_16_bits):
        output = compute_logits(model, make_batch(name, seed=seed))
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    output.backward(gradient.to(output.dtype))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad.dtype == torch.float32 for weight in trained)
    return output.detach().float(), torch.cat([weight.grad.flatten() for weight in trained])


@pytest.mark.parametrize("pruned", [False, True], ids=["unpruned", "pruned"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_stock(name: str, pruned: bool):
    model = make_model(name, pruned=pruned)
    accelerated = copy.deepcopy(model)

    report = lightpeft.accelerate(accelerated)

    assert report.layers
    assert not report.left
    for got, expected in zip(run(accelerated, name), run(model, name), strict=True):
        assert (got - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("pruned", [False, True], ids=["unpruned", "pruned"])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_as_close_to_float32_as_stock_under_autocast(name: str, pruned: bool):
    """The median of five batches: of single ones, the errors differ by up to 10 either way."""
    stock = make_model(name, pruned=pruned, dtype=torch.bfloat16)
    reference, accelerated = copy.deepcopy(stock).float(), copy.deepcopy(stock)
    report = lightpeft.accelerate(accelerated)

    ratios = []
    for seed in range(5):
        exact, *others = (run(m, name, seed=seed) for m in (reference, stock, accelerated))
        errors = [[(x - y).norm() for x, y in zip(other, exact, strict=True)] for other in others]
        ratios.append([float(mine / stocks) for stocks, mine in zip(*errors, strict=True)])

    assert report.bodies
    assert not report.autocast
    for values in zip(*ratios, strict=True):  # of the outputs, and of the gradients
        assert statistics.median(values) <= 1.5
