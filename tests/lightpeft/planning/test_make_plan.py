"""From scores and ratios to a plan: exact counts, floors, alignment, seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import build, draw_scores
from helpers.made_up_scores import make_scores

from lightpeft.core.config import PruningConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.planning.make_plan import make_plan

NOTHING: dict[str, Any] = {"heads": 0, "neurons": 0, "modules": 0, "ranks": 0}
BY_IMPORTANCE = {"module_criterion": "importance"}


def plan_of(scores: Scores, **changes: Any) -> PruningPlan:
    return make_plan(scores, PruningConfig(**(NOTHING | BY_IMPORTANCE | changes)))


def sizes(cuts: dict[str, Any]) -> list[int]:
    return [len(cut.kept) for cut in cuts.values()]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("ratio", "total", "stays"),
    [
        (1 / 3, 12, 8),
        (0.3333, 12, 8),
        (1 / 3, 16, 11),
        (0.3, 10, 7),
        (0.5, 3, 1),
        (0.01, 12, 12),
        (0.99, 12, 1),
    ],
)
def test_exactly_the_asked_share_of_heads_goes(
    ratio: float, total: int, stays: int, equal: bool, seed: int
):
    plan = plan_of(make_scores(heads=total, equal=equal, seed=seed), heads=ratio)

    assert sizes(plan.heads) == [stays] * 4


def test_the_lowest_scores_go():
    scores = make_scores()
    plan = plan_of(scores, heads=0.5, neurons=0.25, criterion="mask", neuron_scope="layer")

    for cuts, scored in ((plan.heads, scores.heads), (plan.neurons, scores.neurons)):
        for block, cut in cuts.items():
            row = scored["mask"][block]
            gone = sorted(set(range(cut.total)) - set(cut.kept))
            assert row[gone].max() < row[list(cut.kept)].min()


def test_among_equals_the_lower_index_stays():
    plan = plan_of(
        make_scores(equal=True), heads=1 / 3, neurons=0.5, neuron_scope="layer", ranks=0.5
    )

    assert {cut.kept for cut in plan.heads.values()} == {tuple(range(8))}
    assert {cut.kept for cut in plan.neurons.values()} == {tuple(range(48))}
    assert [bool(cut.kept) for cut in plan.ranks.values()] == [True] * 4 + [False] * 4


def test_one_tie_at_the_threshold_takes_one_not_all():
    scores = make_scores()
    scores.heads["taylor"]["0.a"][:] = torch.tensor([5.0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 9])

    assert plan_of(scores, heads=0.25).heads["0.a"].kept == (0, 1, 2, 3, 4, 5, 6, 7, 11)


def test_heads_that_go_do_not_depend_on_the_other_ratios():
    scores = make_scores()
    alone = plan_of(scores, heads=0.5)

    together = plan_of(scores, heads=0.5, neurons=0.5, modules=0.5, ranks=0.5)

    assert {b: c.kept for b, c in alone.heads.items()} == {
        b: c.kept for b, c in together.heads.items()
    }


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("align", [1, 8, 16, 32])
@pytest.mark.parametrize("ratio", [0.1, 1 / 3, 0.5, 0.9])
def test_neurons_are_aligned_and_their_total_is_exact(
    ratio: float, align: int, equal: bool, scope: str
):
    plan = plan_of(make_scores(equal=equal), neurons=ratio, align=align, neuron_scope=scope)

    counts = sizes(plan.neurons)
    assert all(count % align == 0 and count >= align for count in counts)
    target = 4 * 96 - math.floor(ratio * 4 * 96 + 0.5)
    # Up to the rounding: of the total, or of each layer; and the floor of each layer.
    slack = align / 2 if scope == "global" else 4 * align / 2
    assert abs(sum(counts) - max(target, 4 * align)) <= slack


def test_layer_scope_cuts_every_layer_alike():
    plan = plan_of(make_scores(), neurons=1 / 3, neuron_scope="layer")

    assert sizes(plan.neurons) == [64] * 4


def test_global_scope_cuts_where_the_scores_are_low():
    scores = make_scores()
    scores.neurons["taylor"]["2.f"] *= 0.1

    plan = plan_of(scores, neurons=1 / 4)

    counts = sizes(plan.neurons)
    assert sum(counts) == 288
    assert counts[2] == min(counts) == 24


def test_a_layer_keeps_the_floor_and_the_plan_says_so():
    scores = make_scores()
    scores.neurons["taylor"]["1.f"] *= 0

    plan = plan_of(scores, neurons=1 / 2, align=16)

    assert sizes(plan.neurons)[1] == 16
    assert sum(sizes(plan.neurons)) == 192
    assert plan.notes == ("1.f keeps the minimum of 16 neurons; by score it would keep 0",)


def test_layer_narrower_than_the_multiple_keeps_all_its_neurons():
    plan = plan_of(make_scores(neurons=12), neurons=0.5, align=16)

    assert sizes(plan.neurons) == [12] * 4


@pytest.mark.parametrize("group", ["heads", "neurons", "ranks"])
def test_ratio_zero_leaves_a_group_untouched(group: str):
    ratios = dict.fromkeys(NOTHING, 0.5) | {group: 0, "modules": 0}

    # 90 is no multiple of align: untouched means untouched.
    plan = make_plan(make_scores(neurons=90), PruningConfig(**ratios))

    assert all(len(cut.kept) == cut.total for cut in getattr(plan, group).values())
    assert all("all kept" in cut.reason for cut in getattr(plan, group).values())
    assert not plan.is_identity


def test_all_ratios_zero_are_the_identity():
    plan = plan_of(make_scores(neurons=90), criterion="random")

    assert plan.is_identity
    assert plan.notes == ()


def test_modules_with_the_lowest_importance_go_whole():
    scores = make_scores()

    plan = plan_of(scores, modules=0.75)

    best = sorted(scores.modules, key=scores.modules.__getitem__)[-2:]
    assert {name for name, cut in plan.ranks.items() if cut.kept} == set(best)
    assert all(len(plan.ranks[name].kept) == 4 for name in best)
    assert sum("the module is pruned" in cut.reason for cut in plan.ranks.values()) == 6


@pytest.mark.parametrize("criterion", ["taylor", "random"])
def test_by_depth_the_modules_nearest_to_the_embeddings_go(criterion: str):
    scores = make_scores()
    in_depth = list(scores.shape.linears)

    plan = plan_of(scores, modules=0.25, module_criterion="depth", criterion=criterion)

    gone = [name for name, cut in plan.ranks.items() if not cut.kept]
    assert gone == in_depth[: len(in_depth) // 4]
    assert "one of the 2 lowest in depth" in plan.ranks[gone[0]].reason


def test_ranks_are_cut_over_all_surviving_modules():
    scores = make_scores()
    plan = plan_of(scores, modules=0.25, ranks=0.5)

    staying = [
        name for name in scores.modules if "the module is pruned" not in plan.ranks[name].reason
    ]
    pairs = [(float(scores.ranks[name][j]), name, j) for name in staying for j in range(4)]
    best = {(name, j) for _, name, j in sorted(pairs)[-12:]}
    assert {(name, j) for name, cut in plan.ranks.items() for j in cut.kept} == best
    assert len(staying) == 6


def test_module_that_loses_all_its_ranks_goes_and_the_plan_says_so():
    scores = make_scores()
    scores.ranks["3.down"][:] = 0

    plan = plan_of(scores, ranks=0.25)

    assert plan.ranks["3.down"].kept == ()
    assert "the PEFT module on 3.down keeps none of its ranks and is pruned" in plan.notes


def test_one_module_with_one_rank_always_stays():
    plan = plan_of(make_scores(), modules=0.99, ranks=0.99)

    assert sum(sizes(plan.ranks)) == 1


def test_every_criterion_reads_its_own_scores():
    scores = make_scores(seed=7)
    plans = [plan_of(scores, heads=0.5, criterion=c) for c in (*CRITERIA, "random")]

    kept = {tuple(cut.kept for cut in plan.heads.values()) for plan in plans}
    assert len(kept) == len(CRITERIA) + 1


def test_random_choice_is_the_seeds_and_has_the_same_counts():
    scores = make_scores()
    ratios = {"heads": 1 / 3, "neurons": 1 / 3, "modules": 0.5, "ranks": 0.5} | BY_IMPORTANCE

    one, again, other = (
        make_plan(scores, PruningConfig(**ratios, criterion="random", seed=seed))
        for seed in (1, 1, 2)
    )
    light = make_plan(scores, PruningConfig(**ratios))

    assert one == again
    for group in ("heads", "neurons", "ranks"):
        chosen = {tuple(c.kept for c in getattr(p, group).values()) for p in (one, other, light)}
        assert len(chosen) == 3
        totals = {sum(sizes(getattr(plan, group))) for plan in (one, other, light)}
        assert len(totals) == 1
    assert sizes(one.heads) == sizes(light.heads)


def test_random_choice_of_one_group_does_not_depend_on_the_others_ratios():
    scores = make_scores()
    few, many = (
        plan_of(scores, heads=0.5, neurons=n, ranks=n, criterion="random") for n in (0.1, 0.5)
    )

    assert few.heads == many.heads
    assert all(
        set(many.neurons[block].kept) <= set(few.neurons[block].kept) for block in few.neurons
    )


def test_random_choice_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)

    plan_of(make_scores(), heads=0.5, criterion="random")

    assert torch.equal(torch.rand(1), expected)


def test_the_plan_says_why():
    plan = plan_of(make_scores(), heads=1 / 3, modules=0.5, ranks=0.5)

    assert plan.heads["0.a"].reason.startswith("4 of 12 pruned, the lowest by taylor: up to 0.")
    assert all(cut.reason for cut in plan.ranks.values())
    assert plan.settings["heads"] == 1 / 3
    assert plan.scores == make_scores().digest


def test_heads_that_cannot_be_pruned_are_kept_with_a_note():
    scores = draw_scores(build("qwen3_next"))

    plan = make_plan(scores, PruningConfig(heads=0.5, neurons=0.5))

    whole, cut = (plan.heads[block.path] for block in scores.shape.attention_blocks)
    assert (len(whole.kept), len(cut.kept)) == (1, 4)
    assert plan.notes[0] == (
        "1 of 2 attention blocks keep all heads, which can't be pruned exactly "
        "(the first: model.layers.0.linear_attn)"
    )
