"""How many kernels a training step takes, so that the number can't grow unnoticed."""

from __future__ import annotations

import pytest
import torch
from helpers.architecture_matrix import build_parts, draw_plan, make_batch
from helpers.architectures import LLAMA

import lightpeft
from experiments import kernels
from lightpeft import PruningConfig
from lightpeft.profiling.kernels import count_kernels
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.step_functions import make_training_step

NOTHING = PruningConfig(heads=0, neurons=0, modules=0, ranks=0)


def count(name: str, *, pruned: bool, dtype: torch.dtype, accelerated: bool) -> int:
    """Return the kernels of a step of a model with four layers."""
    base, scores = build_parts(name, attention="sdpa", layers=4)
    plan = draw_plan(scores) if pruned else lightpeft.make_plan(scores, NOTHING)
    model = lightpeft.prune(base, plan, scores).to(dtype)
    if accelerated:
        lightpeft.accelerate(model)
    step = make_training_step(model, make_batch(name, labels=True))
    for _ in range(2):  # the optimizer makes its state
        step()
    return count_kernels(step).total()


@pytest.mark.parametrize(
    ("name", "dtype", "most", "most_pruned"),
    [
        ("bert", torch.bfloat16, 0.47, 0.53),
        (LLAMA, torch.bfloat16, 0.45, 0.48),
        # With a copy for each B, which only a CPU makes.
        ("bert", torch.float32, 0.76, 0.81),
        (LLAMA, torch.float32, 0.64, 0.66),
    ],
)
def test_a_training_step_takes_few_kernels(
    name: str, dtype: torch.dtype, most: float, most_pruned: float
):
    """Of four layers: the more there are, the less the rest of a step counts."""
    for pruned, bound in ((False, most), (True, most_pruned)):
        stock, accelerated = (
            count(name, pruned=pruned, dtype=dtype, accelerated=x) for x in (False, True)
        )
        assert accelerated <= bound * stock


def test_minilm_takes_at_most_45_percent():
    counts = []
    for accelerated in (False, True):
        model = kernels.build("minilm", torch.bfloat16)
        if accelerated:
            lightpeft.accelerate(model)
        step = make_training_step(model, make_random_batch(model, batch_size=1, length=8))
        step()
        counts.append(count_kernels(step).total())

    assert counts[1] <= 0.45 * counts[0]
