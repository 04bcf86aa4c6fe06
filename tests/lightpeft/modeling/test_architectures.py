"""Every supported architecture: pruned is masked, in all that a model does."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.architecture_matrix import (
    build_parts,
    compute_loss,
    compute_outputs,
    draw_plan,
    draw_plans,
    generate_greedily,
    gradients,
    make_batch,
    mask_model,
    slice_model,
)
from helpers.architectures import ARCHITECTURES
from helpers.tiny_models import make_masked_model, mask_units
from peft import PeftModel
from torch import Tensor

import lightpeft
from lightpeft.modeling.adapters import (
    get_adapter_state_dict,
    get_peft_model_unmapped,
    load_adapter_state_dict,
)
from lightpeft.modeling.families import FAMILIES
from lightpeft.modeling.masks import Masks
from lightpeft.peft_methods.registry import make_pruned_config
from lightpeft.pruning.adapter_slicing import (
    slice_adapter,
    zero_pad_adapter,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NAMES = list(ARCHITECTURES)
KERNELS = [(name, kernel) for name, made in ARCHITECTURES.items() for kernel in made.attention]


def test_every_registered_model_type_is_built_here():
    assert {one.config().model_type for one in ARCHITECTURES.values()} == set(FAMILIES)


@pytest.mark.parametrize(("name", "attention"), KERNELS)
def test_pruned_outputs_equal_masked_outputs(name: str, attention: str):
    model, scores = build_parts(name, attention)
    assert model.config._attn_implementation == attention
    unpruned = compute_outputs(model, name)
    for plan in draw_plans(name, scores):
        expected = compute_outputs(mask_model(model, plan), name)
        assert (expected - unpruned).abs().max() > 0.1

        torch.testing.assert_close(
            compute_outputs(slice_model(model, plan), name), expected, **CLOSE
        )


@pytest.mark.parametrize(("name", "attention"), KERNELS)
def test_pruned_lora_equals_masked_lora_in_outputs_and_gradients(name: str, attention: str):
    model, scores = build_parts(name, attention)
    for plan in draw_plans(name, scores):
        reference = make_masked_model(model, scores, plan)
        expected = compute_outputs(reference, name)
        full = gradients(reference, name)

        pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)

        # T5 does not scale its attention's scores, which makes rounding errors larger.
        torch.testing.assert_close(compute_outputs(pruned, name), expected, rtol=1e-4, atol=1e-4)
        actual = gradients(pruned, name)
        # What a mask leaves of a gradient is what slicing leaves of it.
        expected_gradients = slice_adapter(full, plan)
        assert actual.keys() == expected_gradients.keys()
        for path, gradient in actual.items():
            other = expected_gradients[path]
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4 * _scale(full))


def _scale(gradients: dict[str, Tensor]) -> float:
    return max(1.0, *(float(gradient.abs().max()) for gradient in gradients.values()))


@pytest.mark.parametrize("name", NAMES)
def test_lora_attached_after_pruning_works_as_on_the_masked_model(name: str):
    model, scores = build_parts(name)
    drawn = draw_plan(scores)
    ranks = {path: dataclasses.replace(cut, kept=(0, 1, 2)) for path, cut in drawn.ranks.items()}
    plan = dataclasses.replace(drawn, ranks=ranks)
    config = make_pruned_config(scores.peft, plan)
    config.init_lora_weights = False  # both factors random
    base = slice_model(model, plan)
    alone = compute_outputs(base, name)
    torch.manual_seed(0)
    after, before = get_peft_model_unmapped(base, config), get_peft_model_unmapped(model, config)
    load_adapter_state_dict(before, zero_pad_adapter(get_adapter_state_dict(after), plan))
    mask_units(before.base_model.model, plan)

    adapted = compute_outputs(after, name)

    assert (adapted - alone).abs().max() > 1e-3
    torch.testing.assert_close(adapted, compute_outputs(before, name), **CLOSE)
    torch.testing.assert_close(compute_outputs(after.merge_and_unload(), name), adapted, **CLOSE)


@pytest.mark.parametrize(
    ("name", "attention"), [k for k in KERNELS if ARCHITECTURES[k[0]].generates]
)
def test_generation_with_the_cache_equals_that_of_the_masked_model(name: str, attention: str):
    model, scores = build_parts(name, attention)
    for plan in draw_plans(name, scores):
        tokens, expected = generate_greedily(mask_model(model, plan), name)

        pruned_tokens, logits = generate_greedily(slice_model(model, plan), name)

        assert torch.equal(tokens, pruned_tokens)
        torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize(
    "name", ["bloom", "falcon, new", "gpt_neox", "llama, shared keys and values"]
)
def test_model_with_every_block_emptied_still_generates_as_the_masked_one(name: str):
    model, scores = build_parts(name)
    plan = draw_plan(scores)
    empty = {
        group: {path: dataclasses.replace(cut, kept=()) for path, cut in cuts.items()}
        for group, cuts in (("heads", plan.heads), ("neurons", plan.neurons))
    }
    readers = {block.output_projection for block in plan.shape.blocks}
    ranks = {
        path: dataclasses.replace(cut, kept=() if path in readers else (0,))
        for path, cut in plan.ranks.items()
    }
    plan = dataclasses.replace(plan, ranks=ranks, **empty)
    tokens, expected = generate_greedily(mask_model(model, plan), name)

    pruned_tokens, logits = generate_greedily(slice_model(model, plan), name)

    assert torch.equal(tokens, pruned_tokens)
    torch.testing.assert_close(logits, expected, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_every_mask_gets_a_gradient(name: str):
    model, scores = build_parts(name)
    with Masks(model, scores.shape, l1=0.0) as masks:
        compute_loss(model, make_batch(name)).backward()

        for path, mask in masks.heads.items():
            assert mask.grad.abs().min() > 0, path
        for path, mask in masks.neurons.items():
            assert (mask.grad != 0).float().mean() > 0.5, path  # ReLU leaves some silent


@pytest.mark.parametrize("name", NAMES)
def test_saved_is_loaded_and_lifted(name: str, tmp_path: Path):
    model, scores = build_parts(name)
    plan = draw_plans(name, scores)[-1]
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores)
    lightpeft.save(pruned, tmp_path / "out")
    again = lightpeft.load(copy.deepcopy(model), tmp_path / "out")

    assert lightpeft.get_plan(again) == plan
    assert torch.equal(compute_outputs(again, name), compute_outputs(pruned, name))
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "lifted")
    stock = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path / "lifted"))
    mask_units(stock.base_model.model, plan)
    torch.testing.assert_close(compute_outputs(stock, name), compute_outputs(pruned, name), **CLOSE)


# All of the compiler but its last step; and with that, which needs a C++ compiler on the machine.
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["bert", "llama, shared keys and values"])
def test_compiled_equals_eager(name: str, backend: str):
    model, scores = build_parts(name, "sdpa")
    base = slice_model(model, draw_plan(scores, empty=True))
    expected = compute_outputs(base, name)

    compiled: Any = torch.compile(base, fullgraph=True, backend=backend)

    torch.testing.assert_close(compute_outputs(compiled, name), expected, **CLOSE)
