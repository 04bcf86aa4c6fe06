"""Pruned equals masked on a batch, or an error says so; and only pruning prunes."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import (
    build,
    draw_plan,
    draw_scores,
    make_batch,
    mask_model,
    slice_model,
)
from helpers.architectures import LLAMA
from helpers.exports import reload_here
from helpers.tiny_models import make_lora, make_pruned_model, make_tiny_batch, make_tiny_model
from torch import nn

import lightpeft
from lightpeft.core.errors import ModelError
from lightpeft.exporting import check
from lightpeft.modeling import slicing
from lightpeft.pruning.verification import slice_and_verify


@pytest.mark.parametrize("name", ["deberta-v2, positions shared (v3)", "gpt2", LLAMA])
def test_verification_passes_a_right_model_and_stops_a_wrong_one(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    model = build(name)
    scores = draw_scores(model)
    plan, batch = draw_plan(scores), make_batch(name)
    assert slice_and_verify(copy.deepcopy(model), plan, batch) < 1e-5
    half = copy.deepcopy(model).bfloat16()
    assert slice_and_verify(half, plan, batch) < 0.1

    def wrong(linear: Any, kept: Any) -> Any:
        rows = right(linear, kept)
        return rows.roll(1) if linear.pruned_dim == "in" else rows

    right = slicing.find_kept_indices
    monkeypatch.setattr(slicing, "find_kept_indices", wrong)
    with pytest.raises(
        ModelError, match=r"differ from the masked model's by .* allowed are 0\.0001"
    ):
        lightpeft.prune(model, plan, scores, verify_batch=batch)


def test_rounding_that_grows_from_layer_to_layer_is_not_taken_for_a_wrong_slice(
    monkeypatch: pytest.MonkeyPatch,
):
    model = build(LLAMA, layers=32)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 256.0
    plan, batch = draw_plan(draw_scores(model)), make_batch(LLAMA)
    right = slicing.index_parameter
    monkeypatch.setattr(
        slicing, "index_parameter", lambda *args: nn.Parameter(right(*args).detach() * (1 + 1e-6))
    )
    with torch.no_grad():
        expected = mask_model(model, plan)(**batch).logits
        logits = slice_model(model, plan)(**batch).logits
    assert (logits - expected).abs().max() > 2e-4 * expected.abs().max()

    assert slice_and_verify(model, plan, batch) < 5e-5


@pytest.mark.parametrize(
    ("heads", "message"),
    [(0.5, "differ from the masked model's"), (0.25, "pruned, the model does not run: shape")],
)
def test_counter_of_deberta_left_behind_does_not_pass_verification(
    heads: float, message: str, monkeypatch: pytest.MonkeyPatch
):
    name = "deberta-v2, positions shared (v3)"
    model = build(name)
    scores = draw_scores(model)
    plan = lightpeft.make_plan(
        scores, lightpeft.PruningConfig(heads=heads, neurons=0, modules=0, ranks=0)
    )
    monkeypatch.setattr(slicing, "update_head_counts", lambda *_: None)

    with pytest.raises(ModelError, match=message):
        lightpeft.prune(model, plan, scores, verify_batch=make_batch(name))


def test_verification_leaves_the_mode_of_the_model():
    model = build("bert").train()
    scores = draw_scores(model)

    slice_and_verify(model, draw_plan(scores), make_batch("bert"))

    assert model.training


def num_parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_no_public_function_but_prune_and_load_prunes_its_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check, "run_reload", reload_here)
    plain, pruned = make_tiny_model(), make_pruned_model()
    config = lightpeft.EstimationConfig(steps=2)
    calls: dict[str, tuple[nn.Module, Any]] = {
        "estimate": (
            plain,
            lambda: lightpeft.estimate(plain, make_lora(), [make_tiny_batch()] * 2, config),
        ),
        "inspect_model": (plain, lambda: lightpeft.inspect_model(plain)),
        "get_plan": (pruned, lambda: lightpeft.get_plan(pruned)),
        "save": (pruned, lambda: lightpeft.save(pruned, tmp_path / "out")),
        "export": (pruned, lambda: lightpeft.export(pruned, tmp_path / "export")),
        "accelerate": (pruned, lambda: lightpeft.accelerate(pruned)),
        "undo_acceleration": (pruned, lambda: lightpeft.undo_acceleration(pruned)),
        "expand_adapter": (
            plain,
            lambda: lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=plain),
        ),
    }
    functions = {name: getattr(lightpeft, name) for name in lightpeft.__all__}
    with_model = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function) and "model" in inspect.signature(function).parameters
    }
    assert with_model == {*calls, "prune", "load"}
    for model, call in calls.values():
        before = num_parameters(model)
        call()
        assert num_parameters(model) == before
