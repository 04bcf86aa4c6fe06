"""Blocks without heads or neurons: exact, and without a product."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers.architecture_matrix import (
    build_parts,
    compute_outputs,
    draw_plan,
    generate_greedily,
    gradients,
    make_batch,
    mask_model,
    slice_model,
)
from helpers.tiny_models import make_masked_model
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
