"""Heads compared over all layers, and what each layer keeps where energies say which."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import build_parts, make_batch
from helpers.architectures import LLAMA
from helpers.made_up_scores import make_scores, sharing_scores

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores


def plan_of(scores: Scores, **changes: Any) -> PruningPlan:
    settings: dict[str, Any] = {"neurons": 0, "modules": 0, "ranks": 0, "head_scope": "global"}
    return lightpeft.make_plan(scores, PruningConfig(**(settings | changes)))


def scale_layers(scores: Scores, *factors: float) -> Scores:
    """Return scores whose layers differ by these factors, all blocks of a criterion alike."""

    def scale(criteria: dict[str, Any]) -> dict[str, Any]:
        return {
            criterion: {
                path: row * factor
                for (path, row), factor in zip(blocks.items(), factors, strict=True)
            }
            for criterion, blocks in criteria.items()
        }

    return dataclasses.replace(scores, heads=scale(scores.heads), neurons=scale(scores.neurons))


@pytest.mark.parametrize("ratio", [0.1, 1 / 3, 0.5])
def test_the_lowest_heads_of_all_layers_go(ratio: float):
    scores = scale_layers(make_scores(), 1.0, 1.2, 1.5, 2.0)
    plan = plan_of(scores, heads=ratio)

    rows = torch.cat([*scores.heads["taylor"].values()])
    kept = torch.zeros(48, dtype=torch.bool)
    for layer, units in enumerate(plan.heads.values()):
        kept[[12 * layer + head for head in units.kept]] = True
    assert int((~kept).sum()) == round(48 * ratio)
    assert rows[~kept].max() < rows[kept].min()
    assert not plan.notes


def test_rounding_in_each_layer_is_told_where_it_is_coarse():
    rounded = plan_of(make_scores(), heads=0.1, head_scope="layer")
    coarse = plan_of(sharing_scores(), heads=0.31, head_scope="layer")

    assert not rounded.notes
    assert coarse.notes == (
        "25.0% of the heads are pruned, not 31.0%: each layer prunes an integer number; "
        "head_scope 'global' comes closer",
    )


def test_uniform_plans_keep_equally_many_in_all_layers_whatever_the_scopes():
    scores = scale_layers(make_scores(), 1.0, 1.2, 1.5, 2.0)
    settings = {"heads": 0.5, "neurons": 0.5, "neuron_scope": "global", "align": 1}

    plan, other = plan_of(scores, **settings, uniform=True), plan_of(scores, **settings)

    for units in (plan.heads, plan.neurons):
        assert len({len(row.kept) for row in units.values()}) == 1
    for units in (other.heads, other.neurons):
        assert len({len(row.kept) for row in units.values()}) > 1


def test_a_layer_that_would_lose_all_heads_keeps_its_best_and_the_count_is_exact():
    scores = scale_layers(make_scores(), 1.0, 1e-3, 1.0, 1.0)
    plan = plan_of(scores, heads=0.5)

    best = int(scores.heads["taylor"]["1.a"].argmax())
    assert plan.heads["1.a"].kept == (best,)
    assert sum(len(units.kept) for units in plan.heads.values()) == 24
    assert plan.notes == ("1.a keeps the minimum of 1 head; by score it would keep none",)


def test_whole_kv_groups_of_all_layers_are_compared():
    scores = scale_layers(sharing_scores(), 1.0, 1.0, 1e-3, 3.0)
    plan = plan_of(scores, heads=0.5)

    sums = torch.stack([row.reshape(4, 3).sum(dim=1) for row in scores.heads["taylor"].values()])
    kept = torch.zeros(4, 4, dtype=torch.bool)
    for layer, units in enumerate(plan.heads.values()):
        groups = units.kept[::3]
        assert units.kept == tuple(head + i for head in groups for i in range(3))
        kept[layer, [head // 3 for head in groups]] = True
    assert kept.sum(dim=1).tolist()[2:] == [1, 4]
    assert int(kept.sum()) == 8
    sums[2, kept[2]] = torch.inf  # kept whatever its score
    assert sums[~kept].max() < sums[kept].min()
    assert plan.notes == ("2.a keeps the minimum of 1 KV group; by score it would keep none",)


def test_query_heads_of_all_layers_go_in_equal_numbers_from_every_kv_group():
    scores = scale_layers(sharing_scores(), 1.0, 1.0, 1e-3, 3.0)
    plan = plan_of(scores, heads=1 / 3, head_granularity="query_head")

    per_group = {}
    for block, units in plan.heads.items():
        counts = [sum(head // 3 == group for head in units.kept) for group in range(4)]
        assert len(set(counts)) == 1
        per_group[block] = counts[0]
        rows = scores.heads["taylor"][block].reshape(4, 3)
        best = [3 * g + int(head) for g in range(4) for head in rows[g].topk(counts[0]).indices]
        assert units.kept == tuple(sorted(best))
    assert (per_group["2.a"], per_group["3.a"], sum(per_group.values())) == (1, 3, 8)


def test_by_energy_taylor_says_how_many_a_layer_keeps_and_energy_which():
    scores = scale_layers(make_scores(neurons=96), 1.0, 1.3, 1.6, 2.0)
    settings = {"heads": 0.5, "neurons": 0.5, "align": 8}
    by_energy, by_taylor = (plan_of(scores, criterion=c, **settings) for c in ("energy", "taylor"))

    for units, rows in ((by_energy.heads, scores.heads), (by_energy.neurons, scores.neurons)):
        for block, one in units.items():
            best = rows["energy"][block].topk(len(one.kept)).indices.tolist()
            assert one.kept == tuple(sorted(best))
    for plans in ("heads", "neurons"):
        sizes = [
            [len(one.kept) for one in getattr(plan, plans).values()]
            for plan in (by_energy, by_taylor)
        ]
        assert sizes[0] == sizes[1]
        assert len(set(sizes[0])) > 1


@pytest.mark.parametrize("granularity", ["kv_group", "query_head"])
def test_model_whose_layers_keep_other_numbers_of_kv_groups_equals_the_masked_one(granularity: str):
    model, scores = build_parts(LLAMA)
    scores = scale_layers(scores, 1e-3, 1.0)
    plan = plan_of(scores, heads=0.25, head_granularity=granularity)
    assert len({len(units.kept) for units in plan.heads.values()}) == 2

    # Raises an error if the outputs differ.
    lightpeft.prune(copy.deepcopy(model), plan, scores, verify_batch=make_batch(LLAMA))
