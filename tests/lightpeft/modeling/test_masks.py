"""Masks before the output projections: the same function as scaling a head or a neuron."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.tiny_models import FAMILIES, make_lora, make_tiny_batch, make_tiny_model
from peft import get_peft_model

from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_scale_what_the_columns_of_the_projection_read(family: str, attention: str):
    model, batch = make_tiny_model(family, attention=attention), make_tiny_batch()
    shape, scaled = inspect_model(model), copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with Masks(model, shape, l1=0.0) as masks:
        for block in shape.blocks:
            mask = (masks.heads | masks.neurons)[block.path]
            mask.data = torch.rand(mask.shape, generator=generator)
            columns = mask.detach().repeat_interleave(block.unit_size)
            scaled.get_submodule(block.output_projection).weight.data *= columns
        masked = model(**batch).logits

    torch.testing.assert_close(masked, scaled(**batch).logits, rtol=1e-5, atol=1e-5)


def test_masks_of_one_change_nothing_and_leave_nothing_behind():
    model, batch = make_tiny_model(), make_tiny_batch()
    plain = model(**batch).logits

    with Masks(model, inspect_model(model), l1=1.0) as masks:
        assert torch.equal(model(**batch).logits, plain)
        masks.heads["bert.encoder.layer.0.attention"].data[0] = 0
        assert not torch.equal(model(**batch).logits, plain)

    assert torch.equal(model(**batch).logits, plain)


def test_masks_scale_the_input_of_lora_too():
    model, batch = make_tiny_model(), make_tiny_batch()
    shape = inspect_model(model)
    wrapped = get_peft_model(model, make_lora(init_lora_weights=False)).eval()
    with Masks(model, shape, l1=0.0) as masks:
        for mask in masks.parameters():
            mask.data[:] = 0.5
        masked = wrapped(**batch).logits
    for block in shape.blocks:
        layer = model.get_submodule(block.output_projection)
        layer.base_layer.weight.data *= 0.5
        layer.lora_A["default"].weight.data *= 0.5

    torch.testing.assert_close(masked, wrapped(**batch).logits, rtol=1e-5, atol=1e-5)


def test_masks_keep_the_dtype_of_the_model():
    model = make_tiny_model().bfloat16()

    with Masks(model, inspect_model(model), l1=0.0) as masks:
        assert model(**make_tiny_batch()).logits.dtype == torch.bfloat16
        assert {mask.dtype for mask in masks.parameters()} == {torch.float32}


def test_penalty_is_the_weighted_sum_of_absolute_masks():
    model = make_tiny_model()
    with Masks(model, inspect_model(model), l1=0.5) as masks:
        masks.heads["bert.encoder.layer.1.attention"].data[:] = torch.tensor([-2.0, 0, 1, 1])

        assert float(masks.compute_l1_penalty().detach()) == 0.5 * (4 + 4 + 4 + 3 * 64)


def test_taylor_score_leaves_the_penalty_out():
    model, batch = make_tiny_model(), make_tiny_batch()
    scores = []
    for l1 in (0.0, 100.0):
        with Masks(model, inspect_model(model), l1=l1) as masks:
            for mask in masks.parameters():
                mask.data *= -0.7
            (model(**batch).loss + masks.compute_l1_penalty()).backward()
            scores.append(torch.cat(masks.compute_taylor_scores()))

    assert scores[0].max() > 0.01
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_taylor_score_is_what_scaling_a_unit_changes_in_the_loss():
    model, batch = make_tiny_model().double(), make_tiny_batch()
    shape = inspect_model(model)
    with Masks(model, shape, l1=1e-4) as masks:
        (model(**batch).loss + masks.compute_l1_penalty()).backward()
        scores = dict(
            zip((*masks.heads, *masks.neurons), masks.compute_taylor_scores(), strict=True)
        )

    last = shape.blocks[-1]
    assert last.path in shape.neurons
    for block, unit in [(shape.attention_blocks[0], 2), (last, 37)]:
        width = block.unit_size
        weight = model.get_submodule(block.output_projection).weight
        columns = slice(unit * width, (unit + 1) * width)
        losses = []
        for factor in (1 + 1e-4, 1 - 1e-4):
            before = weight.detach().clone()
            weight.data[:, columns] *= factor
            losses.append(float(model(**batch).loss.detach()))
            weight.data = before
        slope = (losses[0] - losses[1]) / 2e-4
        assert float(scores[block.path][unit]) == pytest.approx(abs(slope), rel=1e-3, abs=1e-7)
