"""Fold adapters into their base models, as models are deployed."""

from __future__ import annotations

from peft import PeftModel
from transformers import PreTrainedModel

from lightpeft.core.names import BOTTLENECK
from lightpeft.modeling.fingerprint import is_quantized


def merge_in_place(model: PeftModel | PreTrainedModel) -> PreTrainedModel | None:
    """Return a model without PEFT modules, in one dtype; the adapted model is used up.

    In place: a copy of a large model would need its memory a second time.

    Returns:
        None where peft can't merge: virtual tokens, bottleneck adapters, quantized weights.
    """
    if not isinstance(model, PeftModel):
        return model
    if not _can_merge(model):
        return None
    dtype = model.dtype
    merged: PreTrainedModel = model.merge_and_unload()
    return merged.to(dtype).requires_grad_(False).eval()


def _can_merge(model: PeftModel) -> bool:
    """Return whether the adapters are changes of weights that can take them."""
    has_bottleneck = any(config.peft_type == BOTTLENECK for config in model.peft_config.values())
    is_packed = any(map(is_quantized, model.parameters()))
    return hasattr(model, "merge_and_unload") and not has_bottleneck and not is_packed
