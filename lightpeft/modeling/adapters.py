"""Attach peft's modules to a model exactly as a config names them."""

from __future__ import annotations

import copy

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from lightpeft.modeling.families import families_of


def get_peft_model_unmapped(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Wrap a model with LoRA, with the config's targets taken literally.

    transformers 5 fused the experts' linears of Mixtral and Qwen MoE. For these models
    `peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers` (peft 0.21)
    converts every LoRA config as if it named the modules of transformers 4: a regex becomes a list
    of name endings, and `gate_proj` the experts' fused weights. The conversion is looked up by
    `model.config.model_type` and can't be switched off, so the type is changed while peft reads
    the config.

    Args:
        model: the plain base model; wrapped in place.
        config: copied, so that peft's changes to it stay out of the caller's.
    """
    config = copy.deepcopy(config)
    if not any(family.unpruned for family in families_of(model)):
        return get_peft_model(model, config)
    model_type = model.config.model_type
    model.config.model_type = f"{model_type}, targets as they are"
    try:
        return get_peft_model(model, config)
    finally:
        model.config.model_type = model_type
