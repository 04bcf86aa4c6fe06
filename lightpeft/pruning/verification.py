"""Does pruning do what masking does? One batch through the model before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.masks import Masks
from lightpeft.pruning.slicing import slice_base

# Of the largest output: what other summation orders leave, over dozens of layers.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_PASSENGERS = ("loss", "past_key_values")


def verify(model: PreTrainedModel, plan: PruningPlan, batch: Mapping[str, Any]) -> float:
    """Slice a plain model by its plan, and check that it says what it said with the rest masked.

    A wrong slice is often no error: the model runs, and is another one. PEFT modules take no part:
    before they are attached one copy of the model is enough, and their weights follow the same
    rows and columns.

    Args:
        model: the base model of the plan (`check_base` makes sure); sliced in place.
        plan: what to keep.
        batch: the model's keyword arguments; labels don't matter.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        ModelError: it is more than rounding of the model's dtype, or the model fails.
    """
    wanted = _masked(model, plan, batch)
    slice_base(model, plan)
    try:
        found = _outputs(model, batch)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"pruned, the model does not run: {reason}") from error
    if [row.shape for row in wanted] != [row.shape for row in found]:
        raise ModelError("pruned, the model's outputs have other shapes than masked")
    scale = max(float(row.abs().max()) for row in wanted)
    apart = [float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True)]
    difference = max(apart) / max(scale, torch.finfo(torch.float32).tiny)
    allowed = _TOLERANCE.get(model.dtype, 1e-4)
    if not difference <= allowed or any(gap != gap for gap in apart):
        raise ModelError(
            f"pruned, the model's outputs differ from the masked model's by {difference:.2g} "
            f"of the largest, allowed are {allowed:g}: this {plan.shape.model_type} model keeps "
            f"heads or neurons in a way that lightpeft does not know"
        )
    return difference


def _masked(model: PreTrainedModel, plan: PruningPlan, batch: Mapping[str, Any]) -> list[Tensor]:
    """What the unpruned model says while all that the plan drops is multiplied by 0."""
    with Masks(model, plan.shape, l1=0.0) as masks, torch.no_grad():
        for cuts, rows in ((plan.heads, masks.heads), (plan.neurons, masks.neurons)):
            for block, cut in cuts.items():
                rows[block].zero_()
                rows[block][list(cut.kept)] = 1.0
        return _outputs(model, batch)


def _outputs(model: PreTrainedModel, batch: Mapping[str, Any]) -> list[Tensor]:
    """All floating-point outputs in float32, or the logits alone, in evaluation mode."""
    training, device = model.training, next(model.parameters()).device
    inputs = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    model.eval()
    try:
        with torch.no_grad():
            said = dict(model(**inputs).items())
    finally:
        model.train(training)
    chosen = {"logits": said["logits"]} if "logits" in said else said
    return [
        value.float()
        for name, value in chosen.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in _PASSENGERS
    ]
