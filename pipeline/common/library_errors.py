"""Errors of lightpeft in the terms of params.yaml: it names the arguments of its own functions."""

from __future__ import annotations

from lightpeft.core.errors import LightPeftError

_CHANGED = "the same ones as then; if model.name has changed, run dvc repro --force"
_TERMS = {
    "LoraConfig.target_modules": "peft.targets",
    "BottleneckConfig.target_modules": "peft.targets",
    "use houlsby": "set peft.placement: houlsby",
    "use another placement": "set another peft.placement",
    "lower lr, or load the model in float32": "lower estimate.lr, or set model.dtype: float32",
    "in LoraConfig.modules_to_save or the same ones as then": _CHANGED,
    "in BottleneckConfig.modules_to_save or the same ones as then": _CHANGED,
}


def name_keys(error: LightPeftError) -> LightPeftError:
    """Return an error of the library as one of the pipeline's user."""
    text = str(error)
    for term, key in _TERMS.items():
        text = text.replace(term, key)
    return type(error)(text)
