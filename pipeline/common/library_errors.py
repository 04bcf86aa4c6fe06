"""Errors of lightpeft in the terms of params.yaml: it names the arguments of its own functions."""

from __future__ import annotations

from lightpeft.core.errors import LightPeftError, Term

_CHANGED = "the same ones as then; if model.name has changed, run dvc repro --force"
_TERMS = {
    Term.LORA_TARGETS: "peft.targets",
    Term.BOTTLENECK_TARGETS: "peft.targets",
    Term.USE_HOULSBY: "set peft.placement: houlsby",
    Term.USE_ANOTHER_PLACEMENT: "set another peft.placement",
    Term.LOWER_LR: "lower estimate.lr, or set model.dtype: float32",
    Term.IN_LORA_MODULES: _CHANGED,
    Term.IN_BOTTLENECK_MODULES: _CHANGED,
}


def name_keys(error: LightPeftError) -> LightPeftError:
    """Return an error of the library as one of the pipeline's user."""
    text = str(error)
    for term, key in _TERMS.items():
        text = text.replace(term, key)
    return type(error)(text)
