"""Importance of PEFT modules and ranks, against brute force."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import make_lora, make_tiny_batch, make_tiny_model
from peft import PeftModel, get_peft_model
from torch import Tensor

from lightpeft.core.errors import ScoresError
from lightpeft.estimation.importance import ImportanceTracker, score_module, score_ranks
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks

QUERY = "bert.encoder.layer.1.attention.self.query"
EARLIER = "bert.encoder.layer.0.attention.self.key"
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def with_lora(**changes: object) -> tuple[PeftModel, Masks]:
    """A model with LoRA of random B on all linears, and its masks."""
    torch.manual_seed(0)
    model = make_tiny_model(**QUIET)
    shape = inspect_model(model)
    wrapped = get_peft_model(model, make_lora(init_lora_weights=False, **changes))
    return wrapped, Masks(model, shape, l1=0.0)


def collect(
    wrapped: PeftModel, masks: Masks, batch: dict[str, Tensor], reduction: str = "sum"
) -> tuple[dict[str, float], dict[str, Tensor], list[Tensor]]:
    with ImportanceTracker(wrapped, masks, reduction=reduction) as tracker:
        tracker.start_step(batch)
        wrapped(**batch).loss.backward()
        tracker.finish_step(1, count=True)
    wrapped.zero_grad()
    tracker.raise_if_not_finite()
    return tracker.compute_importances()


def test_rank_importance_is_the_slope_of_the_loss_when_a_rank_is_scaled():
    gen = torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(s, generator=gen).double() for s in [(5, 6), (3, 6), (4, 3)])
    a.requires_grad_()

    def loss(scale: Tensor) -> Tensor:
        return (x @ a.T @ torch.diag(scale) @ b.T).tanh().square().sum()

    loss(torch.ones(3).double()).backward()

    one = torch.ones(3).double()
    slopes = [(loss(one + e) - loss(one - e)) / 2e-5 for e in 1e-5 * torch.eye(3).double()]
    torch.testing.assert_close(
        score_ranks(a.detach(), a.grad), torch.stack(slopes).abs().float(), rtol=1e-4, atol=0
    )


def test_rank_importance_is_the_same_from_either_factor():
    gen = torch.Generator().manual_seed(0)
    shapes = [(5, 6), (3, 6), (4, 3)]
    x, a, b = (torch.randn(shape, generator=gen, requires_grad=True) for shape in shapes)
    (x @ a.T @ b.T).tanh().sum().backward()

    from_a = score_ranks(a, a.grad)
    from_b = score_ranks(b.T, b.grad.T)

    torch.testing.assert_close(from_a, from_b)


def test_rank_importance_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
        score_ranks(torch.ones(2, 3), torch.ones(3, 2))


def test_collected_rank_scores_are_slopes_of_the_models_loss():
    wrapped, masks = with_lora()
    wrapped.double()
    batch = make_tiny_batch()
    _, ranks, _ = collect(wrapped, masks, batch)
    weight = wrapped.get_submodule(f"base_model.model.{QUERY}").lora_A["default"].weight

    slopes = []
    for rank in range(4):
        losses = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            before = weight.detach().clone()
            weight.data[rank] *= factor
            losses.append(float(wrapped(**batch).loss.detach()))
            weight.data = before
        slopes.append(abs(losses[0] - losses[1]) / 2e-4)

    torch.testing.assert_close(ranks[QUERY], torch.tensor(slopes), rtol=1e-4, atol=1e-7)


def test_mean_reduction_adds_the_authors_factor():
    wrapped, masks = with_lora()
    _, sums, _ = collect(wrapped, masks, make_tiny_batch())
    _, means, _ = collect(wrapped, masks, make_tiny_batch(), "mean")

    for name, row in sums.items():
        linear = wrapped.get_submodule(f"base_model.model.{name}").base_layer
        factor = 1 / linear.in_features + 1 / linear.out_features
        torch.testing.assert_close(means[name], row * factor)


def test_module_importance_is_the_mean_ratio_of_norms_over_real_tokens():
    gen = torch.Generator().manual_seed(0)
    delta, base = torch.randn(2, 3, 5, generator=gen), torch.randn(2, 3, 5, generator=gen)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])

    ratios = [
        float(delta[row, token].norm() / base[row, token].norm())
        for row, token in [(0, 0), (0, 1), (1, 0)]
    ]

    assert float(score_module(delta, base, mask)) == pytest.approx(sum(ratios) / 3)
    unmasked = delta.norm(dim=-1) / base.norm(dim=-1)
    assert float(score_module(delta, base, None)) == pytest.approx(float(unmasked.mean()))


def test_collected_module_scores_are_ratios_of_norms():
    wrapped, masks = with_lora(use_rslora=True)
    batch, seen = make_tiny_batch(), []
    layer = wrapped.get_submodule(f"base_model.model.{QUERY}")
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))

    modules, _, _ = collect(wrapped, masks, batch)

    real = seen[0][batch["attention_mask"].bool()]
    weights = [layer.lora_B["default"].weight, layer.lora_A["default"].weight]
    delta = real @ (weights[0] @ weights[1]).T * 8 / 4**0.5
    ratio = (delta.norm(dim=1) / layer.base_layer(real).norm(dim=1)).mean()
    assert modules[QUERY] == pytest.approx(float(ratio.detach()), rel=1e-5)


def test_padding_changes_no_score():
    wrapped, masks = with_lora()
    batch = {name: tensor[:1] for name, tensor in make_tiny_batch().items()}
    padded = batch | {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }

    short, long = (collect(wrapped, masks, rows) for rows in (batch, padded))

    assert short[0] == pytest.approx(long[0], rel=1e-4)
    assert max(short[0].values()) > 0.1
    for name in short[1]:
        torch.testing.assert_close(short[1][name], long[1][name], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_no_score():
    wrapped, masks = with_lora()
    wrapped.train()
    plain = collect(wrapped, masks, make_tiny_batch())
    wrapped.base_model.model.activation_checkpointing_enable()
    runs = []
    layer = wrapped.get_submodule(f"base_model.model.{QUERY}")
    layer.register_forward_hook(lambda *_: runs.append(1))

    again = collect(wrapped, masks, make_tiny_batch())

    assert len(runs) == 2, "the forward pass was not recomputed: nothing was tested"
    assert plain[0] == pytest.approx(again[0])
    for name in plain[1]:
        torch.testing.assert_close(plain[1][name], again[1][name])


def test_scores_are_means_over_the_counted_steps_only():
    wrapped, masks = with_lora()
    batches = [make_tiny_batch(seed=seed) for seed in range(3)]
    single = [collect(wrapped, masks, batch) for batch in batches]

    with ImportanceTracker(wrapped, masks, reduction="sum") as tracker:
        for step, batch in enumerate(batches):
            wrapped.zero_grad()
            for mask in masks.parameters():
                mask.grad = None
            tracker.start_step(batch)
            wrapped(**batch).loss.backward()
            tracker.finish_step(step, count=step > 0)
    modules, ranks, taylor = tracker.compute_importances()

    assert modules[QUERY] == pytest.approx((single[1][0][QUERY] + single[2][0][QUERY]) / 2)
    torch.testing.assert_close(ranks[QUERY], (single[1][1][QUERY] + single[2][1][QUERY]) / 2)
    assert [*taylor] == [*masks.heads, *masks.neurons]


def test_a_step_moves_nothing_off_the_device(monkeypatch: pytest.MonkeyPatch):
    wrapped, masks = with_lora()
    batch = make_tiny_batch()

    def watch(name: str) -> Callable[..., object]:
        original = getattr(Tensor, name)

        def called(*args: object, **named: object) -> object:
            # transformers itself looks into the attention mask; that is not ours to forbid.
            if "lightpeft" in Path(sys._getframe(1).f_code.co_filename).parts:
                raise AssertionError(f"Tensor.{name} waits for the device")
            return original(*args, **named)

        return called

    with ImportanceTracker(wrapped, masks, reduction="sum") as tracker:
        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
            monkeypatch.setattr(Tensor, name, watch(name))
        tracker.start_step(batch)
        wrapped(**batch).loss.backward()
        tracker.finish_step(1, count=True)
        with pytest.raises(AssertionError, match="waits for the device"):
            tracker.raise_if_not_finite()


def test_not_a_number_is_an_error_that_names_step_and_module():
    wrapped, masks = with_lora()
    batch = make_tiny_batch()
    with ImportanceTracker(wrapped, masks, reduction="sum") as tracker:
        for step in range(1, 5):
            for name in {3: [QUERY], 4: [EARLIER]}.get(step, []):
                layer = wrapped.get_submodule(f"base_model.model.{name}")
                layer.lora_B["default"].weight.data[0, 0] = torch.nan
            wrapped.zero_grad()
            tracker.start_step(batch)
            wrapped(**batch).loss.backward()
            tracker.finish_step(step, count=True)

    with pytest.raises(ScoresError, match=rf"^step 3: the importance of {QUERY} is not a number; "):
        tracker.raise_if_not_finite()


def test_collector_leaves_no_hooks_behind():
    wrapped, masks = with_lora()
    collect(wrapped, masks, make_tiny_batch())

    layer = wrapped.get_submodule(f"base_model.model.{QUERY}")

    assert not layer.base_layer._forward_hooks
    assert not layer.lora_B["default"]._forward_hooks
