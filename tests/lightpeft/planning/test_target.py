"""From a target to fractions: it is reached, and no other fractions that reach it keep more."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch
from helpers.tiny_models import draw_random_scores, make_tiny_model

import lightpeft
from lightpeft import PruningConfig
from lightpeft.core.config import SEARCHED
from lightpeft.core.errors import ConfigError, PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.planning.cost_model import CostModel
from lightpeft.profiling.workload import compute_plan_cost

TARGETS = [
    ("training_speedup", 2.0),
    ("inference_speedup", 1.5),
    ("parameters", 0.7),
    ("memory", 0.7),
    ("flops", 0.6),
]


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Of three layers with four heads and 64 neurons each."""
    return draw_random_scores(make_tiny_model())


def plan_for(scores: Scores, quantity: str, value: float, **changes: object) -> PruningPlan:
    return lightpeft.make_plan(scores, PruningConfig(target={quantity: value}, **changes))


def sum_kept(scores: Scores, plan: PruningPlan) -> float:
    """Mean over the kinds of the fraction of all scores that a plan keeps."""
    fractions = []
    for rows, cuts in (
        (scores.layers, plan.layers),
        (scores.heads["taylor"], plan.heads),
        (scores.neurons["taylor"], plan.neurons),
        (scores.ranks, plan.ranks),
    ):
        kept = sum(float(row[list(cuts[path].kept)].sum()) for path, row in rows.items())
        fractions.append(kept / sum(float(row.sum()) for row in rows.values()))
    return sum(fractions) / 4


@pytest.mark.parametrize(("quantity", "value"), TARGETS)
def test_the_plan_reaches_its_target(scores: Scores, quantity: str, value: float):
    plan = plan_for(scores, quantity, value)
    outcome = plan.settings["target"]

    assert (outcome["quantity"], outcome["value"]) == (quantity, value)
    reached = outcome["predicted"] / value
    assert 1 <= (reached if quantity.endswith("speedup") else 1 / reached) < 1.06
    assert outcome["importance"] == pytest.approx(sum_kept(scores, plan), abs=1e-4)
    assert plan.notes[0].startswith(f"target {quantity} {value:g}: predicted ")


def test_predictions_are_of_the_pruned_model(scores: Scores):
    plan = plan_for(scores, "parameters", 0.7)
    pruned = lightpeft.prune(make_tiny_model(), plan, scores)
    head = sum(x.numel() for x in pruned.get_base_model().classifier.original_module.parameters())
    before = sum(plan.count_parameters()[0].values())
    assert plan.settings["target"]["predicted"] == round(
        (pruned.num_parameters() - head) / before, 4
    )
    fast = plan_for(scores, "training_speedup", 2.0)
    whole = lightpeft.make_plan(scores, PruningConfig(heads=0, neurons=0, modules=0, ranks=0))
    flops = [compute_plan_cost(x, length=64).total.training_flops_per_token for x in (whole, fast)]
    assert fast.settings["target"]["predicted"] == round(flops[0] / flops[1], 4)


@pytest.mark.parametrize(("quantity", "value"), [TARGETS[0], TARGETS[3]])
def test_no_other_fractions_keep_more(scores: Scores, quantity: str, value: float):
    plan = plan_for(scores, quantity, value)
    target, model = PruningConfig(target={quantity: value}).target, CostModel()
    fractions = itertools.product(
        (0, 1 / 3), (0, 0.25, 0.5, 0.75), (0, 0.25, 0.5, 0.75), (0, 1 / 3, 2 / 3)
    )
    for layers, heads, neurons, modules in fractions:
        config = PruningConfig(layers=layers, heads=heads, neurons=neurons, modules=modules)
        other = lightpeft.make_plan(scores, config)
        predicted = model.predict(target, other)
        if (predicted >= value) if target.is_speedup else (predicted <= value):
            assert sum_kept(scores, other) <= sum_kept(scores, plan) + 1e-9


def test_fractions_that_are_given_stay(scores: Scores):
    given = {"heads": 0.25, "modules": 0.5, "ranks": 0.5, "layers": 0.0}
    plan = plan_for(scores, "training_speedup", 2.0, **given)

    assert {kind: plan.settings[kind] for kind in given} == given
    assert [len(x.kept) for x in plan.heads.values()] == [3, 3, 3]
    assert plan.settings["neurons"] > 0


def test_where_nothing_else_may_go_layers_do(scores: Scores):
    plan = plan_for(scores, "inference_speedup", 1.4, heads=0, neurons=0)

    assert len(plan.layers["bert.encoder.layer"].kept) == 2


@pytest.mark.parametrize(
    ("quantity", "value", "message"),
    [
        ("training_speedup", 1000, r"must be at most ([\d.]+), the best that pruning reaches with"),
        ("parameters", 0.01, r"must be at least ([\d.]+), the best that pruning reaches with"),
    ],
)
def test_a_target_out_of_reach_is_refused_with_the_best(
    scores: Scores, quantity: str, value: float, message: str
):
    with pytest.raises(PlanError) as caught:
        plan_for(scores, quantity, value, layers=0, heads=0.5)
    found = re.match(
        rf"target\.{quantity} {message} layers, heads as given, got", str(caught.value)
    )
    assert found, caught.value

    assert plan_for(scores, quantity, float(found[1]), layers=0, heads=0.5).settings["target"]


def test_layers_stay_if_only_they_have_peft_modules(scores: Scores):
    bottom = [path for path in scores.ranks if ".layer.0." in path]
    modules, ranks = ({x: rows[x] for x in bottom} for rows in (scores.modules, scores.ranks))

    plan = plan_for(replace(scores, modules=modules, ranks=ranks), "parameters", 0.5)

    assert 0 in plan.layers["bert.encoder.layer"].kept
    assert plan.settings["target"]["predicted"] <= 0.5


def test_scores_that_are_all_zero_keep_no_importance(scores: Scores):
    def blank(rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {path: torch.zeros_like(row) for path, row in rows.items()}

    heads, neurons = (
        {name: blank(rows) for name, rows in x.items()} for x in (scores.heads, scores.neurons)
    )
    zeros = {"layers": blank(scores.layers), "ranks": blank(scores.ranks)}

    plan = plan_for(replace(scores, heads=heads, neurons=neurons, **zeros), "parameters", 0.5)

    assert plan.settings["target"]["importance"] == 0
    assert plan.settings["target"]["predicted"] <= 0.5


@pytest.mark.parametrize("criterion", ["random", "magnitude", "energy"])
def test_another_criterion_prunes_as_much(scores: Scores, criterion: str):
    usual, other = (
        plan_for(scores, "training_speedup", 2.0, criterion=name) for name in ("taylor", criterion)
    )

    assert [usual.settings[kind] for kind in SEARCHED] == [other.settings[x] for x in SEARCHED]
    # Other layers may keep the neurons, above or below the lowest PEFT module.
    predicted = (plan.settings["target"]["predicted"] for plan in (usual, other))
    assert next(predicted) == pytest.approx(next(predicted), rel=0.05)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "target: one of training_speedup, .* must be set, got None"),
        ({"flops": 0.5, "memory": 0.5}, "target: one of .* must be set, got {'memory': 0.5, 'f"),
        ({"training_speedup": 1}, "target: training_speedup must be None or a number > 1, got 1"),
        ({"speed": 2.0}, "target: unknown argument speed; known: training_speedup, i"),
        (2.0, "target must be None, a PruningTarget or its arguments as a dict, got 2.0"),
    ],
)
def test_a_wrong_target_is_one_line(target: object, message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        PruningConfig(target=target)
