"""Where query heads share keys and values: whole groups, or as many heads of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from helpers.made_up_scores import sharing_scores

from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.planning.make_plan import make_plan


def plan_of(scores: Scores, **changes: Any) -> PruningPlan:
    nothing: dict[str, Any] = {"neurons": 0, "modules": 0, "ranks": 0}
    return make_plan(scores, PruningConfig(**(nothing | changes)))


@pytest.mark.parametrize(("ratio", "groups"), [(0.25, 3), (0.5, 2), (0.75, 1), (0.99, 1)])
def test_whole_kv_groups_go_by_the_sum_of_their_heads(ratio: float, groups: int):
    scores = sharing_scores()
    plan = plan_of(scores, heads=ratio)

    for block, cut in plan.heads.items():
        sums = scores.heads["taylor"][block].reshape(4, 3).sum(dim=1)
        best = sorted(sums.topk(groups).indices.tolist())
        assert cut.kept == tuple(3 * group + head for group in best for head in range(3))
    assert plan.heads["0.a"].reason == f"{4 - groups} of 4 KV groups pruned, the lowest by taylor"
    assert all("minimum of 1 KV group" in note for note in plan.notes)
    assert bool(plan.notes) == (ratio == 0.99)


@pytest.mark.parametrize(("ratio", "count"), [(1 / 3, 2), (2 / 3, 1), (0.99, 1)])
def test_single_heads_go_in_equal_numbers_from_every_kv_group(ratio: float, count: int):
    scores = sharing_scores()
    plan = plan_of(scores, heads=ratio, head_granularity="query_head")

    for block, cut in plan.heads.items():
        rows = scores.heads["taylor"][block].reshape(4, 3)
        best = [sorted(row.topk(count).indices.tolist()) for row in rows]
        assert cut.kept == tuple(3 * g + head for g, heads in enumerate(best) for head in heads)
        assert plan.counts.kv_groups[block] == 4
    assert "query heads of each KV group pruned" in plan.heads["0.a"].reason


@pytest.mark.parametrize("sharing", [1, 12])
def test_the_unit_makes_no_difference_where_no_or_all_heads_share_a_group(sharing: int):
    scores = sharing_scores(sharing=sharing)
    by_group, by_head = (
        plan_of(scores, heads=0.5, head_granularity=unit) for unit in ("kv_group", "query_head")
    )

    assert by_group.heads == by_head.heads
    assert [len(cut.kept) for cut in by_group.heads.values()] == [6] * 4


def test_plan_that_keeps_other_numbers_of_heads_in_kv_groups_is_refused():
    plan = plan_of(sharing_scores(), heads=0.5)
    uneven = {"0.a": dataclasses.replace(plan.heads["0.a"], kept=(0, 1, 3))}

    with pytest.raises(
        PlanError, match=r"0\.a keeps 2, 1 query heads of its KV groups: all kept KV groups"
    ):
        dataclasses.replace(plan, heads=plan.heads | uneven)


def test_plan_that_empties_a_block_keeps_one_silent_unit_and_no_module_that_would_revive_it():
    plan = plan_of(sharing_scores(), heads=0.5)
    cut = {"0.a": dataclasses.replace(plan.heads["0.a"], kept=())}

    with pytest.raises(PlanError, match=r"keeps no head, but .* PEFT module on 0\.out"):
        dataclasses.replace(plan, heads=plan.heads | cut)
    gone = {"0.out": dataclasses.replace(plan.ranks["0.out"], kept=())}
    empty = dataclasses.replace(plan, heads=plan.heads | cut, ranks=plan.ranks | gone)
    assert empty.list_remaining_units("0.a") == (0,)
    assert (empty.counts.units["0.a"], empty.counts.kv_groups["0.a"]) == (1, 1)
