"""Energy of heads and neurons, against outputs with and without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.architecture_matrix import build_parts, make_batch
from helpers.tiny_models import make_tiny_batch, make_tiny_model
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

import lightpeft
from lightpeft.core.block_shape import Block
from lightpeft.core.config import EstimationConfig
from lightpeft.core.errors import ScoresError
from lightpeft.estimation.energy import InputSquares
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks
from lightpeft.profiling.live_bytes import LiveBytes

FIRST, DOWN = "bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"
Batch = dict[str, Any]


def sum_squares(
    model: PreTrainedModel, *batches: Batch, first: int = 0, backward: bool = False
) -> InputSquares:
    """Return the sums over batches; those before `first` are not counted."""
    with InputSquares(model, inspect_model(model)) as squares:
        for step, batch in enumerate(batches):
            if step >= first:
                squares.start_step(batch)
            loss = model(**batch).loss
            if backward:
                loss.backward()
            if step >= first:
                squares.finish_step(step)
    return squares


def record_inputs(model: PreTrainedModel, path: str, batch: Batch) -> Tensor:
    """Return what a linear reads at the real tokens of a batch, shape `(tokens, inputs)`."""
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    mask = batch["attention_mask"].bool()
    return seen[0][mask] if seen[0].shape[:2] == mask.shape else seen[0].flatten(0, 1)


def compute_output_without(linear: nn.Module, inputs: Tensor, columns: slice) -> Tensor:
    silenced = inputs.clone()
    silenced[:, columns] = 0
    with torch.no_grad():
        return linear(silenced)


def compute_energy_by_hand(model: PreTrainedModel, block: Block, inputs: Tensor) -> Tensor:
    """Return per unit the mean square of the change when its channels are zeroed one by one."""
    linear = model.get_submodule(block.output_projection)
    with torch.no_grad():
        full = linear(inputs)
    channels = [
        (full - compute_output_without(linear, inputs, slice(i, i + 1))).square().sum(dim=1).mean()
        for i in range(inputs.shape[1])
    ]
    return torch.stack(channels).reshape(block.units, -1).sum(dim=1)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama, shared keys and values", "t5"])
def test_energy_is_the_mean_square_of_what_a_unit_adds_to_its_blocks_output(name: str):
    model, _ = build_parts(name)
    batch = make_batch(name, labels=True)

    config = EstimationConfig(steps=2, lr=1e-30)
    scores = lightpeft.estimate(model, LoraConfig(r=2), [batch], config)

    for block in scores.shape.blocks:
        inputs = record_inputs(model, block.output_projection, batch)
        expected = compute_energy_by_hand(model, block, inputs)
        energy = (scores.heads["energy"] | scores.neurons["energy"])[block.path]
        torch.testing.assert_close(energy, expected, rtol=1e-4, atol=1e-7)


def test_padding_and_what_it_holds_do_not_count():
    model = make_tiny_model()
    batch = {name: tensor[:1] for name, tensor in make_tiny_batch().items()}
    padded = batch | {
        "input_ids": pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": pad(batch["attention_mask"], (0, 5)),
    }

    short, long = (sum_squares(model, rows).compute_means() for rows in (batch, padded))

    torch.testing.assert_close(short[DOWN], long[DOWN], rtol=1e-5, atol=1e-7)
    unmasked = sum_squares(model, padded | {"attention_mask": None}).compute_means()
    assert not torch.allclose(short[FIRST], unmasked[FIRST], rtol=1e-2)


def test_rows_in_one_batch_or_in_four_give_the_same():
    model, batch = make_tiny_model(), make_tiny_batch()
    single = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(4)]

    one, four = (
        sum_squares(model, batch).compute_means(),
        sum_squares(model, *single).compute_means(),
    )

    for path in one:
        torch.testing.assert_close(one[path], four[path], rtol=1e-5, atol=1e-7)


def test_only_counted_steps_count():
    model, batches = make_tiny_model(), [make_tiny_batch(seed=seed) for seed in range(3)]

    late, last = sum_squares(model, *batches, first=2), sum_squares(model, batches[2])

    assert torch.equal(late.compute_means()[DOWN], last.compute_means()[DOWN])


def test_masks_change_nothing_in_their_own_block():
    model = make_tiny_model()
    before = sum_squares(model, make_tiny_batch()).compute_means()

    with Masks(model, inspect_model(model), l1=0.0) as masks:
        for mask in masks.parameters():
            mask.data.fill_(2.0)
        after = sum_squares(model, make_tiny_batch()).compute_means()

    path = "bert.encoder.layer.0.attention.output.dense"
    assert torch.equal(before[path], after[path])
    assert not torch.allclose(before[DOWN], after[DOWN])


def test_gradient_checkpointing_changes_nothing():
    model = make_tiny_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    plain = sum_squares(model, make_tiny_batch()).compute_means()
    model.activation_checkpointing_enable()
    runs: list[int] = []
    model.get_submodule(DOWN).register_forward_hook(lambda *_: runs.append(1))

    again = sum_squares(model, make_tiny_batch(), backward=True).compute_means()

    assert len(runs) == 2, "the forward pass was not recomputed: nothing was tested"
    torch.testing.assert_close(plain[DOWN], again[DOWN])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_holds_one_copy_of_the_input_in_float32(dtype: torch.dtype):
    model = make_tiny_model(intermediate_size=512).to(dtype)
    linear = model.get_submodule(DOWN)
    inputs, mask = torch.randn(4, 64, 512).to(dtype), torch.ones(4, 64, dtype=torch.long)
    before = inputs.clone()
    with InputSquares(model, inspect_model(model)) as squares:
        (update,) = linear._forward_pre_hooks.values()
        squares.start_step({"attention_mask": mask})
        with LiveBytes([]) as live:
            update(linear, (inputs,))

    assert live.peak < inputs.nbytes + 1.1 * 4 * inputs.numel()
    assert torch.equal(inputs, before)


def test_input_that_is_not_a_number_names_the_step_and_the_first_module():
    model = make_tiny_model()
    bias = model.get_submodule("bert.encoder.layer.1.intermediate.dense").bias.data
    with InputSquares(model, inspect_model(model)) as squares:
        for step in (1, 2, 3):
            if step == 2:
                bias[3] = torch.inf
            squares.start_step(make_tiny_batch())
            model(**make_tiny_batch())
            squares.finish_step(step)

    with pytest.raises(ScoresError, match=rf"^step 2: the input of {DOWN} is not a number; lower"):
        squares.raise_if_not_finite()


def test_no_hooks_are_left_behind():
    model = make_tiny_model()
    sum_squares(model, make_tiny_batch())

    assert not model.get_submodule(DOWN)._forward_pre_hooks
