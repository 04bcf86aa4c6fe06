"""Blocks without heads or neurons: exact, and without a product."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers.architecture_matrix import (
    build,
    build_parts,
    compute_outputs,
    draw_plan,
    generate_greedily,
    gradients,
    make_batch,
    mask_model,
    slice_model,
)
from helpers.tiny_models import make_masked_model, plan_that_keeps
from torch.utils.flop_counter import FlopCounterMode

import lightpeft
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.pruning.adapter_slicing import slice_adapter

NAMES = ["bert", "gpt2", "llama, shared keys and values", "phi3", "t5"]
GENERATING = NAMES[1:]

pytestmark = pytest.mark.parametrize("kind", ["feed_forward", "attention"])


def empty_first_block(scores: Scores, kind: str) -> tuple[PruningPlan, list[str]]:
    """A random plan whose first block of a kind has no unit and no PEFT module."""
    plan = draw_plan(scores)
    block = next(x for x in scores.shape.blocks if x.kind == kind)
    cut = {block.path: KeptUnits(total=block.units, kept=(), reason="test")}
    gone = {path: dataclasses.replace(plan.ranks[path], kept=()) for path in block.linears}
    changed = dataclasses.replace(plan, ranks=plan.ranks | gone)
    if kind == "attention":
        changed = dataclasses.replace(changed, heads=plan.heads | cut)
    else:
        changed = dataclasses.replace(changed, neurons=plan.neurons | cut)
    return changed, list(block.linears)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_without_units_adds_its_bias_and_multiplies_nothing(name: str, kind: str):
    model, scores = build_parts(name)
    plan, linears = empty_first_block(scores, kind)
    sliced = slice_model(model, plan)

    expected = compute_outputs(mask_model(model, plan), name)
    with FlopCounterMode(display=False) as counter:
        outputs = compute_outputs(sliced, name)

    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    counted = {path.partition(".")[2]: flops for path, flops in counter.get_flop_counts().items()}
    assert any(counted.values())
    inside = set(linears)
    if kind == "attention":
        block = scores.shape.block_of[linears[0]]
        inside.add(f"{block.path}.{block.attention_core}".removesuffix("."))
    assert [path for path in inside if counted.get(path)] == []


def test_a_model_that_changes_projections_in_place_gives_what_it_gives_masked(kind: str):
    model, scores = build_parts("deberta")
    plan, _ = empty_first_block(scores, kind)

    outputs = compute_outputs(slice_model(model, plan), "deberta")

    expected = compute_outputs(mask_model(model, plan), "deberta")
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_weights_are_those_of_as_many_layers_as_unpruned(attention: str, kind: str):
    name = "llama, shared keys and values"
    model = build(name, attention=attention)
    plan, _ = empty_first_block(build_parts(name)[1], kind)

    sliced = slice_model(model, plan)
    sizes = [
        [x.shape[-2:] for x in m(**make_batch(name), output_attentions=True).attentions]
        for m in (model, sliced)
    ]

    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == (2 if attention == "eager" else 0)


def test_a_cut_that_the_stock_config_expresses_multiplies_nothing_either(kind: str):
    name = "llama, one key and value per head"
    model, scores = build_parts(name)
    emptied, kept = (
        (scores.shape.heads, scores.shape.neurons)
        if kind == "attention"
        else (scores.shape.neurons, scores.shape.heads)
    )
    units = dict.fromkeys(emptied, ()) | {path: range(count) for path, count in kept.items()}
    blocks = scores.shape.block_of
    ranks = {path: () if blocks[path].path in emptied else (0, 1) for path in scores.ranks}
    plan = plan_that_keeps(scores, units, ranks)

    pruned = lightpeft.prune(model, plan, scores, verify_batch=make_batch(name))
    with FlopCounterMode(display=False) as counter:
        pruned(**make_batch(name))

    config = pruned.get_base_model().config
    one_unit = config.num_attention_heads if kind == "attention" else config.intermediate_size
    assert one_unit == 1  # the config says what is stored
    counted = {path for path, flops in counter.get_flop_counts().items() if flops}
    assert counted
    assert [path for path in counted if path.endswith(tuple(emptied))] == []


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_saved_files_are_those_of_the_masked_model(name: str, kind: str, tmp_path):
    model, scores = build_parts(name)
    plan, _ = empty_first_block(scores, kind)
    reference = make_masked_model(model, scores, plan)
    expected = slice_adapter(gradients(reference, name), plan)

    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores, verify_batch=make_batch(name))
    actual = gradients(pruned, name)

    assert actual.keys() == expected.keys()
    for path, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[path], rtol=1e-3, atol=1e-4)
    lightpeft.save(pruned, tmp_path / "out")
    loaded = lightpeft.load(copy.deepcopy(model), tmp_path / "out")
    torch.testing.assert_close(
        compute_outputs(loaded, name), compute_outputs(pruned.eval(), name), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", GENERATING)
def test_generation_with_the_cache_is_that_of_the_masked_model(name: str, kind: str):
    model, scores = build_parts(name)
    plan, _ = empty_first_block(scores, kind)

    (tokens, logits), (wanted, expected) = (
        generate_greedily(x, name) for x in (slice_model(model, plan), mask_model(model, plan))
    )

    assert torch.equal(tokens, wanted)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
