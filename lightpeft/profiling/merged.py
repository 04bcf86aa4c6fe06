"""Fold adapters into their base models, as models are deployed."""

from __future__ import annotations

from peft import PeftModel
from transformers import PreTrainedModel

from lightpeft.acceleration.accelerate import undo_acceleration
from lightpeft.core.errors import ModelError
from lightpeft.modeling.fingerprint import is_quantized


def merge_in_place(model: PeftModel | PreTrainedModel) -> PreTrainedModel | None:
    """Return a model without PEFT modules, in one dtype; the adapted model is used up.

    In place: a copy of a large model would need its memory a second time.

    Returns:
        None where peft can't merge: virtual tokens, bottleneck adapters, quantized weights.
    """
    if not isinstance(model, PeftModel):
        return model
    dtype = model.dtype
    if not hasattr(model, "merge_and_unload") or any(map(is_quantized, model.parameters())):
        return None
    undo_acceleration(model)
    try:
        merged: PreTrainedModel = model.merge_and_unload()
    except (ModelError, NotImplementedError, ValueError):
        return None
    return merged.to(dtype).requires_grad_(False).eval()
