"""Importance of bottleneck adapters and their units, against brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_models import make_tiny_batch, make_tiny_batches, make_tiny_model
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

import lightpeft
from lightpeft import BottleneckConfig, EstimationConfig
from lightpeft.core.errors import ModelError
from lightpeft.estimation.importance import ImportanceTracker, score_ranks
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks

LAYER = "bert.encoder.layer.1.output.dense"
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
Collected = tuple[dict[str, float], dict[str, Tensor], list[Tensor]]


def attach(**settings: Any) -> tuple[PeftModel, Masks]:
    torch.manual_seed(0)
    model = make_tiny_model(**QUIET)
    shape = inspect_model(model)
    config = BottleneckConfig(**{"r": 4, "init_weights": False, "task_type": "SEQ_CLS"} | settings)
    return get_peft_model(model, config).double(), Masks(model, shape, l1=0.0)


def collect(wrapped: PeftModel, masks: Masks, reduction: str = "sum") -> Collected:
    batch = make_tiny_batch()
    with ImportanceTracker(wrapped, masks, reduction=reduction) as tracker:
        tracker.start_step(batch)
        wrapped(**batch).loss.backward()
        tracker.finish_step(1, count=True)
    tracker.raise_if_not_finite()
    return tracker.compute_importances()


def slopes(wrapped: PeftModel, scale: Any) -> Tensor:
    """How the loss changes when `scale` multiplies a unit by a little more, or less, than 1."""
    found = []
    for unit in range(4):
        losses = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            scale(unit, factor)
            losses.append(float(wrapped(**make_tiny_batch()).loss.detach()))
            scale(unit, 1 / factor)
        found.append(abs(losses[0] - losses[1]) / 2e-4)
    return torch.tensor(found)


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "sigmoid"])
def test_unit_importance_is_the_slope_of_the_loss_when_a_unit_is_scaled(name: str, placement: str):
    wrapped, masks = attach(non_linearity=name, placement=placement, scaling=0.7)
    layer = wrapped.get_submodule(f"base_model.model.{LAYER}")
    _, ranks, _ = collect(wrapped, masks)
    factors = torch.ones(4, dtype=torch.float64)
    layer.bottleneck_up["default"].register_forward_pre_hook(lambda _, args: args[0] * factors)

    def scale(unit: int, factor: float) -> None:
        factors[unit] *= factor

    torch.testing.assert_close(ranks[LAYER], slopes(wrapped, scale), rtol=1e-4, atol=1e-8)
    assert (ranks[LAYER] > 1e-6).any()


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_both_sides_of_a_unit_score_the_same_where_the_function_keeps_factors(name: str):
    wrapped, _ = attach(non_linearity=name)
    wrapped(**make_tiny_batch()).loss.backward()
    layer = wrapped.get_submodule(f"base_model.model.{LAYER}")
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]

    rows = [torch.cat([down.weight, down.bias[:, None]], dim=1)]
    rows += [torch.cat([down.weight.grad, down.bias.grad[:, None]], dim=1)]
    columns = score_ranks(up.weight.T, up.weight.grad.T)

    torch.testing.assert_close(score_ranks(*rows), columns)
    assert (columns > 1e-6).any()


def test_mean_reduction_divides_by_the_widths_of_both_sides():
    (_, sums, _), (_, means, _) = (collect(*attach(), reduction=how) for how in ("sum", "mean"))

    for name, row in sums.items():
        torch.testing.assert_close(means[name], row * (1 / 32 + 1 / 32))


@pytest.mark.parametrize("placement", ["houlsby", "parallel"])
def test_module_importance_is_output_by_input_over_real_tokens(placement: str):
    wrapped, masks = attach(placement=placement, scaling=0.5)
    layer, seen = wrapped.get_submodule(f"base_model.model.{LAYER}"), []
    layer.bottleneck_down["default"].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach())
    )
    modules, _, _ = collect(wrapped, masks)

    real = seen[0][make_tiny_batch()["attention_mask"].bool()]
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    delta = 0.5 * up(torch.relu(down(real)))
    ratio = (delta.norm(dim=1) / real.norm(dim=1)).mean()

    assert modules[LAYER] == pytest.approx(float(ratio.detach()), rel=1e-5)


def test_gradient_checkpointing_changes_no_score():
    wrapped, masks = attach(placement="parallel")
    plain = collect(wrapped.train(), masks)
    wrapped.zero_grad()
    wrapped.base_model.model.activation_checkpointing_enable()

    again = collect(wrapped, masks)

    assert plain[0] == pytest.approx(again[0])
    for name in plain[1]:
        torch.testing.assert_close(plain[1][name], again[1][name])


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_estimation_scores_all_adapters_and_leaves_the_model_as_it_was(placement: str):
    model = make_tiny_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = BottleneckConfig(r=4, placement=placement, task_type="SEQ_CLS")
    batches = list(make_tiny_batches())

    scores = lightpeft.estimate(model, config, batches, EstimationConfig(steps=6, lr=1e-2))

    assert len(scores.modules) == (6 if placement == "houlsby" else 3)
    assert all(value > 0 for value in scores.modules.values())
    assert all((row > 0).any() for row in scores.ranks.values())
    assert config.block_inputs is None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    linears = [x for x in model.modules() if isinstance(x, nn.Linear)]
    assert not any(x._forward_pre_hooks or x._forward_hooks for x in linears)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {".*": 2}}, r"BottleneckConfig\.rank_pattern is not supported"),
        ({"inference_mode": True}, r"BottleneckConfig\.inference_mode is not supported"),
        (
            {"target_modules": ["query"]},
            "'query' is no output projection of a bert block; candidates: dense",
        ),
        ({"modules_to_save": ["output.dense"]}, r"BottleneckConfig\.modules_to_save: .* would"),
    ],
)
def test_what_can_not_be_estimated_is_one_line(settings: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        lightpeft.estimate(make_tiny_model(), BottleneckConfig(**settings), [], EstimationConfig())
