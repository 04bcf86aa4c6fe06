"""Plans that no score decides: what they keep, and that they are the LoRA a user would attach."""

from __future__ import annotations

import pytest
import torch
from helpers.architecture_matrix import build_parts
from helpers.made_up_scores import make_scores
from helpers.tiny_models import draw_random_scores, make_lora, make_tiny_batch, make_tiny_model
from peft import LoraConfig, PeftModel, get_peft_model

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.planning.fixed_plans import keep_query_and_value, keep_upper_modules, match_budget
from lightpeft.planning.make_plan import make_plan


def list_kept(plan: PruningPlan) -> list[str]:
    return [name for name, units in plan.ranks.items() if units.kept]


def count_weights(plan: PruningPlan) -> int:
    return plan.shape.count_parameters(plan.counts)["adapter"]


def compare_with_stock(plan: PruningPlan, scores: Scores, stock: LoraConfig) -> None:
    """Check that a plan's model is what stock peft makes, from the same seed: weights and loss."""
    models: list[PeftModel] = []
    for attach in (
        lambda model: lightpeft.prune(model, plan, scores, warm_start=False),
        lambda model: get_peft_model(model, stock),
    ):
        torch.manual_seed(3)
        models.append(attach(make_tiny_model()).eval())
    batch = make_tiny_batch()
    ours, theirs = models
    for model in models:
        with torch.no_grad():  # LoRA B starts at 0, where no scaling shows
            for name, weight in model.named_parameters():
                weight.add_(0.1 if "lora_B" in name else 0.0)
        model(**batch).loss.backward()
    expected = dict(theirs.named_parameters())
    assert {name for name, x in ours.named_parameters()} == expected.keys()
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
        assert weight.requires_grad == expected[name].requires_grad
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, expected[name].grad)


@pytest.mark.parametrize(
    ("architecture", "endings"),
    [
        ("bert", {"query", "value"}),
        ("llama, shared keys and values", {"q_proj", "v_proj"}),
        ("gpt2", {"c_attn"}),
        ("modernbert", {"Wqkv"}),
        ("t5", {"q", "v"}),
        ("deberta-v2, positions projected", {"query_proj", "value_proj"}),
    ],
)
def test_qv_keeps_queries_and_values_of_every_attention_block(architecture: str, endings: set[str]):
    _, scores = build_parts(architecture)

    plan = keep_query_and_value(scores)

    assert {name.rpartition(".")[2] for name in list_kept(plan)} == endings
    assert len(list_kept(plan)) == len(endings) * len(scores.shape.attention_blocks)
    assert plan.keeps_base_intact
    assert all(plan.ranks[name].is_complete for name in list_kept(plan))


def test_qv_is_what_stock_peft_attaches_to_query_and_value():
    scores = draw_random_scores(make_tiny_model())

    plan = keep_query_and_value(scores)

    compare_with_stock(plan, scores, make_lora(target_modules=["query", "value"]))


def test_qv_without_a_module_on_queries_or_values_is_refused():
    scores = draw_random_scores(make_tiny_model(), target_modules=["intermediate.dense"])

    with pytest.raises(PlanError, match=r"^no PEFT module .* query or value .* were on dense$"):
        keep_query_and_value(scores)


def test_freeze_keeps_the_upper_modules_and_the_whole_base():
    scores = draw_random_scores(make_tiny_model())

    plan = keep_upper_modules(scores, 0.5)

    assert plan.keeps_base_intact
    assert list_kept(plan) == [*scores.shape.linears][9:]
    assert all(plan.ranks[name].is_complete for name in list_kept(plan))


def test_freeze_of_no_module_is_refused():
    with pytest.raises(PlanError, match=r"prune one of 8 PEFT modules, got 0\.01$"):
        keep_upper_modules(make_scores(), 0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("modules", "ranks", "units"), [(0.25, 0.25, 0.3333), (0.5, 0, 0.5)])
def test_small_trains_as_many_weights_as_light(seed: int, modules: float, ranks: float, units):
    scores = draw_random_scores(make_tiny_model(), seed=seed)
    config = PruningConfig(heads=units, neurons=units, modules=modules, ranks=ranks)
    light = make_plan(scores, config)

    small = match_budget(scores, light)

    largest = max(x.inputs + x.outputs for x in scores.shape.linears.values())
    assert abs(count_weights(small) - count_weights(light)) <= largest / 2
    assert small.keeps_base_intact
    sizes = [len(units.kept) for units in small.ranks.values()]
    assert sizes == sorted(sizes), "the upper modules have the rank that is left over"
    assert max(sizes) - min(sizes) <= 1
    assert f"{count_weights(small):,} weights to train" in small.notes[0]
    assert f"for a budget of {count_weights(light):,}" in small.notes[0]


def test_small_of_a_budget_below_every_module_keeps_the_uppermost():
    scores = make_scores(neurons=960)
    tiny = make_plan(scores, PruningConfig(heads=0.9, neurons=0.9, modules=0.9, ranks=0.75))

    small = match_budget(scores, tiny)

    assert [len(units.kept) for units in small.ranks.values()] == [0] * 7 + [1]


def test_small_is_stock_lora_of_a_lower_rank():
    scores = draw_random_scores(make_tiny_model())
    for row in scores.ranks.values():
        row[:] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    half = make_plan(scores, PruningConfig(heads=0, neurons=0, modules=0, ranks=0.5))

    plan = match_budget(scores, half)

    assert plan.notes[0].startswith("rank 2 on 18 PEFT modules: ")
    compare_with_stock(
        plan, scores, make_lora(r=2, lora_alpha=4, target_modules=scores.peft.target_modules)
    )


def test_no_score_decides_them_and_the_file_says_so(tmp_path):
    scores = draw_random_scores(make_tiny_model())
    light = make_plan(scores, PruningConfig())
    fixed = [
        keep_query_and_value(scores),
        keep_upper_modules(scores, 0.5),
        match_budget(scores, light),
    ]

    for plan in fixed:
        plan.save(tmp_path / "plan.json")
        assert not PruningPlan.load(tmp_path / "plan.json").follows_estimation
    assert light.follows_estimation
    nothing = PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
    assert not make_plan(scores, nothing).follows_estimation
