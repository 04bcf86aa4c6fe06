"""Whole layers in a plan: how many, which, and what is left to prune."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.tiny_models import draw_random_scores, make_tiny_model

import lightpeft
from lightpeft import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores

STACK = "bert.encoder.layer"


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Of five layers with known scores: the third is the least important, then the fourth."""
    model = make_tiny_model(num_hidden_layers=5)
    drawn = draw_random_scores(model)
    return dataclasses.replace(drawn, layers={STACK: torch.tensor([0.9, 0.5, 0.1, 0.2, 0.7])})


def make_plan(scores: Scores, **changes: float) -> PruningPlan:
    settings = {"heads": 0.0, "neurons": 0.0, "modules": 0.0, "ranks": 0.0} | changes
    return lightpeft.make_plan(scores, PruningConfig(**settings))


@pytest.mark.parametrize(
    ("ratio", "kept"),
    [
        (0.0, (0, 1, 2, 3, 4)),
        (0.09, (0, 1, 2, 3, 4)),
        (0.1, (0, 1, 3, 4)),  # halves are rounded up
        (0.4, (0, 1, 4)),
        (0.8, (0,)),
        (0.99, (0,)),
    ],
)
def test_the_layers_with_the_lowest_scores_go(scores: Scores, ratio: float, kept: tuple[int, ...]):
    plan = make_plan(scores, layers=ratio)
    assert plan.layers[STACK].kept == kept
    assert plan.kept_layers == ({} if len(kept) == 5 else {STACK: kept})
    assert bool(plan.notes) == (ratio == 0.99)


def test_of_equal_scores_the_lower_layers_stay(scores: Scores):
    equal = dataclasses.replace(scores, layers={STACK: torch.ones(5)})
    assert make_plan(equal, layers=0.4).layers[STACK].kept == (0, 1, 2)


def test_other_fractions_are_of_what_is_left(scores: Scores):
    plan = make_plan(scores, layers=0.4, heads=0.5, neurons=0.5, modules=0.5, ranks=0.5)
    gone = ("bert.encoder.layer.2.", "bert.encoder.layer.3.")
    for path, units in (plan.units | plan.ranks).items():
        if path.startswith(gone) or f"{path}." in gone:
            assert (units.kept, units.reason) == ((), "its layer is pruned")
    rest = plan.without_layers
    assert sum(len(x.kept) for x in rest.heads.values()) == 6
    assert sum(len(x.kept) for x in rest.neurons.values()) == 96
    assert sum(bool(x.kept) for x in rest.ranks.values()) == len(rest.ranks) / 2
    assert "3 of 5 layers, 6 of 20 heads" in repr(plan)


def test_summary_counts_what_the_layers_held_outside_blocks(scores: Scores):
    model = make_tiny_model(num_hidden_layers=5)
    last = make_plan(scores, layers=0.4).summary().splitlines()[-1]
    pruned = lightpeft.prune(model, make_plan(scores, layers=0.4), scores)
    head = sum(x.numel() for x in pruned.get_base_model().classifier.original_module.parameters())
    assert last.endswith(f"-> {pruned.num_parameters() - head:,}")  # peft has a copy of the head


def test_random_layers_are_drawn_from_the_seed(scores: Scores):
    drawn = [
        lightpeft.make_plan(scores, PruningConfig(layers=0.4, criterion="random", seed=seed))
        for seed in (0, 0, 1, 2, 3)
    ]
    kept = [plan.layers[STACK].kept for plan in drawn]
    assert kept[0] == kept[1]
    assert len(set(kept)) > 1


def test_plan_without_layers_is_the_one_of_before(scores: Scores):
    plan = make_plan(scores, heads=0.5)
    assert plan.without_layers is plan
    assert plan.layers[STACK].reason == "all kept"


def test_adapters_in_pruned_layers_alone_are_refused(scores: Scores):
    drawn = draw_random_scores(
        make_tiny_model(num_hidden_layers=5), target_modules=r".*layer\.[23]\..*query"
    )
    with pytest.raises(PlanError, match="all layers with PEFT modules would be pruned"):
        make_plan(dataclasses.replace(drawn, layers=scores.layers), layers=0.4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {"x": (1, ())}}, "the plan's layers of x are not those of its model shape"),
        ({"layers": {STACK: (4, (0, 1))}}, "the plan's layers of bert.encoder.layer are not"),
        ({"layers": {STACK: (5, (0, 1, 4))}}, "prunes the layer of .*layer.2.* keeps some of it"),
    ],
)
def test_contradicting_layers_are_refused(
    scores: Scores, change: dict[str, dict[str, tuple[int, tuple[int, ...]]]], message: str
):
    plan = make_plan(scores)
    layers = {
        path: dataclasses.replace(plan.layers[STACK], total=total, kept=kept)
        for path, (total, kept) in change["layers"].items()
    }
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(plan, layers=layers)
