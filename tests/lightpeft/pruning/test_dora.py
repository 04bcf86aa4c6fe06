"""DoRA: the pruned model is the masked model, and survives saving, loading and expansion."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.architecture_matrix import build
from helpers.tiny_models import (
    compute_tiny_logits,
    draw_random_scores,
    estimate_tiny_scores,
    make_lora,
    make_masked_model,
    make_tiny_batch,
    make_tiny_model,
    make_uneven_plan,
    mask_units,
)
from peft import PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

import lightpeft
from lightpeft import EstimationConfig, PruningConfig
from lightpeft.core.errors import CheckpointError
from lightpeft.core.names import PEFT_PREFIX
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.estimation.importance import score_module
from lightpeft.exporting.lifting import make_lifted_model
from lightpeft.exporting.merging import merge_adapter
from lightpeft.modeling.adapters import get_peft_model_unmapped

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
MAGNITUDE = "lora_magnitude_vector"
FAMILIES = ("bert", "roberta", "distilbert")


def draw_scores(model: PreTrainedModel, **changes: object) -> Scores:
    """Random scores and weights; magnitudes are the norms of the rows, times 0.7 to 1.3."""
    scores = draw_random_scores(model, use_dora=True, **changes)
    initial = get_peft_model_unmapped(copy.deepcopy(model), scores.peft).state_dict()
    generator = torch.Generator().manual_seed(0)
    adapter = {
        name: initial[f"{name}.default.weight"]
        * (0.7 + 0.6 * torch.rand(weight.shape, generator=generator))
        if name.endswith(MAGNITUDE)
        else weight
        for name, weight in scores.adapter.items()
    }
    return dataclasses.replace(scores, adapter=adapter)


def compute_gradients(model: PeftModel) -> dict[str, Tensor]:
    model(**make_tiny_batch()).loss.backward()
    return {
        name.replace(".default", "").replace(".modules_to_save", ""): weight.grad
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is not None
    }


def find_kept(plan: PruningPlan, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The kept ranks, inputs and outputs of a linear, by boolean masks."""
    shape = plan.shape.linears[name]
    cut = plan.units[plan.shape.block_of[name].path]
    units = torch.zeros(cut.total, dtype=torch.bool)
    units[list(cut.kept)] = True
    wide = units.repeat_interleave(shape.unit_size)
    ranks = torch.zeros(plan.ranks[name].total, dtype=torch.bool)
    ranks[list(plan.ranks[name].kept)] = True
    inputs, outputs = (torch.ones(size, dtype=torch.bool) for size in (shape.inputs, shape.outputs))
    return (ranks, wide, outputs) if shape.pruned_dim == "in" else (ranks, inputs, wide)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rslora", [False, True])
def test_pruned_logits_and_gradients_equal_masked_ones(family: str, rslora: bool):
    model = make_tiny_model(family)
    scores = draw_scores(model, use_rslora=rslora)
    plan = make_uneven_plan(scores)
    masked = make_masked_model(model, scores, plan)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)

    expected = compute_tiny_logits(masked)
    torch.testing.assert_close(compute_tiny_logits(pruned), expected, **CLOSE)
    wanted = compute_gradients(masked)
    for name, grad in compute_gradients(pruned).items():
        path, _, weight = name.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        if not path:
            torch.testing.assert_close(grad, wanted[name], **CLOSE)
            continue
        ranks, inputs, outputs = find_kept(plan, path)
        full = wanted[name]
        if weight.startswith("A"):
            torch.testing.assert_close(grad, full[ranks][:, inputs], **CLOSE)
        elif weight.startswith("B"):
            torch.testing.assert_close(grad, full[outputs][:, ranks], **CLOSE)
        else:  # m' = k m with a constant k, so dL/dm = k dL/dm'
            key = f"{PEFT_PREFIX}{path}.{MAGNITUDE}"
            trained = pruned.state_dict()[f"{key}.default.weight"]
            ratio = trained / scores.adapter[key][outputs]
            torch.testing.assert_close(grad * ratio, full[outputs], **CLOSE)


def test_without_the_new_norm_the_pruned_model_is_another():
    """The formula is not idle: sliced magnitudes alone are far off."""
    model = make_tiny_model()
    scores = draw_scores(model)
    plan = make_uneven_plan(scores)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    right = compute_tiny_logits(pruned)
    for name, weight in pruned.named_parameters():
        path = name.removeprefix(PEFT_PREFIX).partition(f".{MAGNITUDE}")[0]
        if MAGNITUDE in name:
            weight.data = scores.adapter[f"{PEFT_PREFIX}{path}.{MAGNITUDE}"][
                find_kept(plan, path)[2]
            ]

    assert (compute_tiny_logits(pruned) - right).abs().max() > 0.01


def test_a_fresh_adapter_starts_as_the_base_model():
    model = make_tiny_model()
    scores = draw_scores(model)
    plan = make_uneven_plan(scores)
    masked = copy.deepcopy(model)
    mask_units(masked, plan)

    pruned = lightpeft.prune(model, plan, scores, warm_start=False)

    torch.testing.assert_close(compute_tiny_logits(pruned), compute_tiny_logits(masked), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_loads_and_expands_to_stock_peft(tmp_path: Path, family: str):
    model = make_tiny_model(family)
    scores = draw_scores(model)
    plan = make_uneven_plan(scores)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    with torch.no_grad():  # trained: another V, other magnitudes
        for weight in pruned.parameters():
            if weight.requires_grad:
                weight.mul_(1.1).add_(0.01)
    lightpeft.save(pruned, tmp_path / "out")

    loaded = lightpeft.load(copy.deepcopy(model), tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=model)
    full = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "full").eval()
    lifted = make_lifted_model(pruned, model)
    torch.testing.assert_close(compute_tiny_logits(lifted), compute_tiny_logits(full), **CLOSE)
    mask_units(full.base_model.model, plan)

    expected = compute_tiny_logits(pruned)
    torch.testing.assert_close(compute_tiny_logits(merge_adapter(pruned)), expected, **CLOSE)
    assert torch.equal(compute_tiny_logits(loaded), expected)
    torch.testing.assert_close(compute_tiny_logits(full), expected, **CLOSE)


def test_what_was_pruned_computes_what_the_base_does_when_expanded(tmp_path: Path):
    model = make_tiny_model()
    scores = draw_scores(model, target_modules=["query", "value"])
    plan = make_uneven_plan(scores)
    lightpeft.save(lightpeft.prune(copy.deepcopy(model), plan, scores), tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=model)
    full = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "full").eval()

    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for name, units in plan.ranks.items():
        if units.kept:
            outputs = find_kept(plan, name)[2]
            base = model.get_submodule(name)(x)[:, ~outputs]
            expanded = full.get_submodule(f"{PEFT_PREFIX}{name}")(x)[:, ~outputs]
            torch.testing.assert_close(expanded, base, **CLOSE)


def test_expansion_needs_the_base_model(tmp_path: Path):
    model = make_tiny_model()
    scores = draw_scores(model)
    lightpeft.save(
        lightpeft.prune(copy.deepcopy(model), make_uneven_plan(scores), scores), tmp_path / "out"
    )

    with pytest.raises(CheckpointError, match=r"is of DoRA, which is expanded with the base model"):
        lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")
    with pytest.raises(CheckpointError, match="base weights"):
        lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=make_tiny_model(seed=1))
    assert not (tmp_path / "full").exists()


def test_whole_layers_go_with_their_magnitudes(tmp_path: Path):
    model = make_tiny_model()
    (stack,) = (scores := draw_scores(model)).layers
    scores = dataclasses.replace(scores, layers={stack: torch.tensor([1.0, 0.0, 1.0])})
    config = PruningConfig(layers=0.4, heads=0.5, neurons=0.5, modules=0.25, ranks=0.5)
    plan = lightpeft.make_plan(scores, config)
    assert plan.kept_layers == {stack: (0, 2)}
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    lightpeft.save(pruned, tmp_path / "out")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=model)
    full = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "full").eval()
    mask_units(full.base_model.model, plan)

    masked = make_masked_model(model, scores, plan)
    for unpruned in (masked, full):
        encoder = unpruned.base_model.model.bert.encoder
        encoder.layer = torch.nn.ModuleList([encoder.layer[0], encoder.layer[2]])
        expected = compute_tiny_logits(unpruned)
        torch.testing.assert_close(compute_tiny_logits(pruned), expected, **CLOSE)


@pytest.mark.parametrize("name", ["llama, shared keys and values", "gpt2"])
def test_grouped_heads_gated_neurons_and_transposed_weights_too(name: str):
    model = build(name)
    scores = draw_scores(model, task_type="CAUSAL_LM")
    config = PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.5, align=1)
    plan = lightpeft.make_plan(scores, config)
    masked = make_masked_model(model, scores, plan)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    ids = torch.arange(3, 14)[None]

    with torch.no_grad():
        torch.testing.assert_close(pruned(ids).logits, masked(ids).logits, **CLOSE)


def test_experts_beside_a_dense_block_are_pruned_but_not_expanded(tmp_path: Path):
    model = build("qwen2_moe, shared expert and dense layer")
    scores = draw_scores(model, task_type="CAUSAL_LM")
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0.5, neurons=0.5, ranks=0.5, align=1))
    masked = make_masked_model(model, scores, plan)
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    ids = torch.arange(3, 14)[None]

    with torch.no_grad():
        torch.testing.assert_close(pruned(ids).logits, masked(ids).logits, **CLOSE)
    lightpeft.save(pruned, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"can't be expanded: .*, but not DoRA$"):
        lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full", model=model)


def test_an_estimated_model_is_pruned_and_its_magnitudes_counted():
    model = make_tiny_model()
    scores = estimate_tiny_scores(model, steps=6, use_dora=True)

    assert all(value > 0 for value in scores.modules.values())
    assert any(name.endswith(MAGNITUDE) for name in scores.adapter)
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0.25, neurons=0.5, ranks=0.5))
    counted = plan.shape.count_parameters(plan.counts)["adapter"]
    pruned = lightpeft.prune(model, plan, scores)
    lora = [x.numel() for name, x in pruned.named_parameters() if "lora_" in name]
    assert counted == sum(lora)


def test_module_importance_is_that_of_the_layers_outputs():
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, batch = make_tiny_model(**dropout), make_tiny_batch()
    config = make_lora(use_dora=True, init_lora_weights=False)
    name = "bert.encoder.layer.1.attention.output.dense"
    torch.manual_seed(0)
    estimation = EstimationConfig(steps=2, lr=1e-12, l1=0)
    scores = lightpeft.estimate(model, config, [batch], estimation)

    adapted = get_peft_model(copy.deepcopy(model), scores.peft).eval()
    adapted.load_state_dict(
        {
            f"{key}.default.weight"
            if key.endswith(MAGNITUDE)
            else key.replace(".weight", ".default.weight"): weight
            for key, weight in scores.adapter.items()
            if "lora_" in key
        },
        strict=False,
    )
    layer, seen = adapted.get_submodule(f"{PEFT_PREFIX}{name}"), {}
    layer.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
    adapted(**batch)
    base = linear(seen["x"], layer.base_layer.weight, layer.base_layer.bias)

    expected = score_module(seen["y"] - base, base, batch["attention_mask"])
    assert scores.modules[name] == pytest.approx(expected.item(), rel=1e-4)
