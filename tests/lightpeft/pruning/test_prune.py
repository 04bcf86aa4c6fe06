"""The pruned model is the masked model: in logits, in gradients, with LoRA of any rank."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import transformers
from helpers.tiny_models import (
    FAMILIES,
    check_unchanged,
    compute_tiny_logits,
    draw_random_scores,
    make_masked_model,
    make_tiny_batch,
    make_tiny_model,
    make_uneven_plan,
)
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import LightPeftError, ModelError, PlanError
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.adapters import get_adapter_state_dict
from lightpeft.pruning.adapter_slicing import slice_adapter, zero_pad_adapter

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def kept(plan: PruningPlan, name: str, full: Tensor, factor: str) -> Tensor:
    """What stays of a full LoRA factor, chosen by boolean masks."""
    linear, ranks = plan.shape.linears[name], torch.zeros(plan.ranks[name].total, dtype=torch.bool)
    ranks[list(plan.ranks[name].kept)] = True
    cut = plan.units[plan.shape.block_of[name].path]
    units = torch.zeros(cut.total, dtype=torch.bool)
    units[list(cut.kept)] = True
    wide = units.repeat_interleave(linear.unit_size)
    if factor == "A":
        return full[ranks][:, wide] if linear.pruned_dim == "in" else full[ranks]
    return full[wide][:, ranks] if linear.pruned_dim == "out" else full[:, ranks]


def gradients(model: PeftModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model(**batch).loss.backward()
    return {
        name.replace(".default", "").replace(".modules_to_save", ""): weight.grad
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_gradients_equal_masked_gradients(family: str):
    model, batch = make_tiny_model(family), make_tiny_batch()
    scores = draw_random_scores(model)
    plan = make_uneven_plan(scores)
    full = gradients(make_masked_model(model, scores, plan), batch)

    pruned = gradients(lightpeft.prune(model, plan, scores), batch)

    factors = {n.rpartition(".lora_")[0] for n in pruned if ".lora_" in n}
    staying = [name for name, cut in plan.ranks.items() if cut.kept]
    assert sorted(factors) == sorted(f"base_model.model.{name}" for name in staying)
    for name in staying:
        for factor in "AB":
            key = f"base_model.model.{name}.lora_{factor}.weight"
            torch.testing.assert_close(pruned[key], kept(plan, name, full[key], factor), **CLOSE)
    heads = [key for key in pruned if ".lora_" not in key]
    assert heads
    for key in heads:
        torch.testing.assert_close(pruned[key], full[key], **CLOSE)


@pytest.mark.parametrize("changes", [{"use_rslora": True}, {"r": 6, "lora_alpha": 7}])
def test_scaling_stays_whatever_rank_is_left(changes: dict[str, object]):
    model = make_tiny_model()
    scores = draw_random_scores(model, **changes)
    plan = make_uneven_plan(scores)
    reference = make_masked_model(model, scores, plan)
    expected = next(m for m in reference.modules() if isinstance(m, LoraLayer)).scaling["default"]

    pruned = lightpeft.prune(model, plan, scores)

    layers = [module for module in pruned.modules() if isinstance(module, LoraLayer)]
    assert {layer.r["default"] for layer in layers} == set(range(1, scores.peft.r + 1))
    assert [layer.scaling["default"] for layer in layers] == pytest.approx([expected] * len(layers))
    torch.testing.assert_close(compute_tiny_logits(pruned), compute_tiny_logits(reference), **CLOSE)


def test_lora_on_few_targets_is_pruned_exactly_too():
    model = make_tiny_model()
    scores = draw_random_scores(model, target_modules=["query", "attention.output.dense"])
    plan = make_uneven_plan(scores)
    expected = compute_tiny_logits(make_masked_model(model, scores, plan))

    torch.testing.assert_close(
        compute_tiny_logits(lightpeft.prune(model, plan, scores)), expected, **CLOSE
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_blocks_know_how_many_heads_are_left(family: str):
    model = make_tiny_model(family)
    scores = draw_random_scores(model)
    plan = make_uneven_plan(scores)

    lightpeft.prune(model, plan, scores)

    for block, cut in plan.heads.items():
        counts = [
            getattr(module, name)
            for module in model.get_submodule(block).modules()
            for name in ("num_attention_heads", "n_heads")
            if hasattr(module, name)
        ]
        assert counts == [len(cut.kept)]


def test_identity_plan_changes_nothing():
    model = make_tiny_model()
    scores = draw_random_scores(model)
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0, neurons=0, modules=0, ranks=0))
    expected = compute_tiny_logits(make_masked_model(model, scores, plan))

    pruned = lightpeft.prune(model, plan, scores)

    assert plan.is_identity
    assert torch.equal(compute_tiny_logits(pruned), expected)
    assert lightpeft.get_plan(pruned) == plan


def test_without_warm_start_adapter_and_head_are_the_untrained_ones():
    model = make_tiny_model()
    scores = draw_random_scores(model)
    plan = make_uneven_plan(scores)
    untrained = get_peft_model(copy.deepcopy(model), copy.deepcopy(scores.peft))
    start = dataclasses.replace(scores, adapter=get_adapter_state_dict(untrained))
    expected = compute_tiny_logits(make_masked_model(model, start, plan))

    pruned = lightpeft.prune(model, plan, scores, warm_start=False)

    torch.testing.assert_close(compute_tiny_logits(pruned), expected, **CLOSE)


def test_only_adapter_and_head_are_trained():
    model = make_tiny_model("distilbert")
    scores = draw_random_scores(model)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)

    trained = {name for name, weight in pruned.named_parameters() if weight.requires_grad}

    assert {n.split(".")[2] for n in trained if "lora_" not in n} == {
        "classifier",
        "pre_classifier",
    }
    assert sum("lora_" in name for name in trained) == 2 * sum(
        bool(cut.kept) for cut in lightpeft.get_plan(pruned).ranks.values()
    )


@pytest.mark.parametrize("training", [False, True])
def test_pruned_model_is_in_the_mode_of_its_base(training: bool):
    model = make_tiny_model().train(training)
    scores = draw_random_scores(model, lora_dropout=0.5)

    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)

    assert {module.training for module in pruned.modules()} == {training}


def test_lifting_and_compacting_again_gives_the_same_weights():
    scores = draw_random_scores(make_tiny_model())
    plan = make_uneven_plan(scores)
    compact = slice_adapter(scores.adapter, plan)

    again = slice_adapter(zero_pad_adapter(compact, plan), plan)

    assert compact.keys() == again.keys()
    assert all(torch.equal(compact[name], again[name]) for name in compact)


def other_model(difference: str) -> transformers.PreTrainedModel:
    if difference == "other weights":
        return make_tiny_model(seed=1)
    if difference == "other head size":
        return make_tiny_model(num_attention_heads=8)
    if difference == "other family":
        return make_tiny_model("roberta")
    if difference == "other labels":
        return make_tiny_model(num_labels=3)
    if difference == "wrapped":
        return lightpeft.prune(*plain_parts())
    sizes = {"fewer layers": {"num_hidden_layers": 2}, "narrower": {"intermediate_size": 32}}
    return make_tiny_model(**sizes[difference])


def plain_parts() -> tuple[transformers.PreTrainedModel, PruningPlan, lightpeft.Scores]:
    model = make_tiny_model()
    scores = draw_random_scores(model)
    return model, make_uneven_plan(scores), scores


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("other weights", r"made for base weights \w{16}, but these are \w{16}"),
        ("other head size", "other sizes than this bert model's"),
        ("other family", "made for another bert model.*this roberta model's"),
        ("other labels", r"classifier\.bias must have shape \(3,\), got \(2,\)"),
        ("fewer layers", "other sizes"),
        ("narrower", "other sizes"),
        ("wrapped", "wrapped by peft already; pass the base model"),
    ],
)
def test_plan_of_another_model_is_refused_before_the_model_is_changed(
    difference: str, message: str
):
    _, plan, scores = plain_parts()
    model = other_model(difference)

    with check_unchanged(model), pytest.raises(LightPeftError, match=message) as caught:
        lightpeft.prune(model, plan, scores)

    assert "\n" not in str(caught.value)


def test_plan_from_other_scores_is_refused():
    model, plan, _ = plain_parts()

    with pytest.raises(PlanError, match=f"made from scores {plan.scores}, but these scores are"):
        lightpeft.prune(model, plan, draw_random_scores(model, seed=1))


def test_plan_with_ranks_that_the_adapter_lacks_is_refused():
    model, plan, scores = plain_parts()
    name = next(iter(plan.ranks))
    edited = dataclasses.replace(
        plan, ranks=plan.ranks | {name: KeptUnits(total=9, kept=(8,), reason="edited")}
    )

    with pytest.raises(PlanError, match="ranks are not those of the scores"):
        lightpeft.prune(model, edited, scores)


def test_pruned_model_cannot_be_pruned_again():
    model, plan, scores = plain_parts()
    base = lightpeft.prune(model, plan, scores).unload()

    with pytest.raises(PlanError, match="other sizes"):
        lightpeft.prune(base, plan, scores)


def test_model_without_a_plan_has_none_to_give():
    model = get_peft_model(
        make_tiny_model(), copy.deepcopy(draw_random_scores(make_tiny_model()).peft)
    )

    with pytest.raises(ModelError, match=r"no plan; get it from lightpeft\.prune"):
        lightpeft.get_plan(model)
