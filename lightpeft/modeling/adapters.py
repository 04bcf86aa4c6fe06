"""Attach peft's modules to a model, and read and write their weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft import PeftConfig, PeftModel, get_peft_model
from peft import get_peft_model_state_dict as peft_state_dict
from peft import set_peft_model_state_dict as set_peft_state_dict
from torch import Size, Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.errors import PlanError
from lightpeft.modeling.families import EXPERTS

DEFAULT = "default"  # peft's name of an adapter that is not named


def get_peft_model_unmapped(
    model: PreTrainedModel, config: PeftConfig, *, adapter_name: str = DEFAULT
) -> PeftModel:
    """Wrap a model with PEFT modules, with the config's targets taken literally.

    Args:
        model: the plain base model; wrapped in place.
        config: copied, so that peft's changes to it stay out of the caller's.
        adapter_name: of peft.
    """
    with _take_targets_literally(model):
        return get_peft_model(model, copy.deepcopy(config), adapter_name)


def add_adapter_unmapped(model: PeftModel, config: PeftConfig, *, adapter_name: str) -> None:
    """Add one more adapter to a wrapped model, likewise; it is not active."""
    with _take_targets_literally(model.get_base_model()):
        model.add_adapter(adapter_name, copy.deepcopy(config))


@contextmanager
def _take_targets_literally(model: PreTrainedModel) -> Iterator[None]:
    """Keep peft from converting the targets of a LoRA config.

    transformers 5 fused the experts' linears of Mixtral and Qwen MoE. For these models
    `peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers` (peft 0.21)
    converts every LoRA config as if it named the modules of transformers 4: a regex becomes a list
    of name endings, and `gate_proj` the experts' fused weights. The conversion is looked up by
    `model.config.model_type` and can't be switched off, so the type is changed while peft reads
    the config.
    """
    model_type = model.config.model_type
    if any(name.rpartition(".")[2] in EXPERTS for name, _ in model.named_modules()):
        model.config.model_type = f"{model_type}, targets as they are"
    try:
        yield
    finally:
        model.config.model_type = model_type


def make_regex_alternation(names: Sequence[str]) -> str:
    """Return a regex that matches these names and no others."""
    return "(?:" + "|".join(re.escape(name) for name in names) + ")"


def cast_trainable_to_float32(model: nn.Module) -> list[nn.Parameter]:
    """Cast what is trained to float32, whatever the type of the frozen base, and return it.

    In bfloat16 a small optimizer step would be rounded away.
    """
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trainable:
        weight.data = weight.data.float()
    return trainable


def get_adapter_state_dict(
    model: PeftModel, *, adapter_name: str | None = None
) -> dict[str, Tensor]:
    """Return PEFT weights and task head under peft's names, detached.

    Embeddings are left out, about which peft would ask the hub.

    Args:
        model: wrapped.
        adapter_name: of peft; None: the active one.
    """
    state: dict[str, Tensor] = peft_state_dict(
        model, adapter_name=adapter_name or model.active_adapter, save_embedding_layers=False
    )
    return {name: weight.detach() for name, weight in state.items()}


def load_adapter_state_dict(
    model: PeftModel, weights: Mapping[str, Tensor], *, adapter_name: str | None = None
) -> None:
    """Load PEFT weights and task head, all of them and no others; see `get_adapter_state_dict`.

    Raises:
        PlanError: a weight is missing, left over, or of another shape.
    """
    check_adapter_state_dict(model, weights, adapter_name=adapter_name)
    set_peft_state_dict(model, dict(weights), adapter_name or model.active_adapter)


def check_adapter_state_dict(
    model: PeftModel, weights: Mapping[str, Tensor], *, adapter_name: str | None = None
) -> None:
    """Check that weights are all that a model's adapter has, and no others.

    Raises:
        PlanError: a weight is missing, left over, or of another shape.
    """
    state = get_adapter_state_dict(model, adapter_name=adapter_name)
    expected = {name: weight.shape for name, weight in state.items()}
    check_shapes({name: weight.shape for name, weight in weights.items()}, expected)


def check_shapes(shapes: Mapping[str, Size], expected: Mapping[str, Size | None]) -> None:
    """Check the shapes of PEFT weights.

    Raises:
        PlanError: names the first weight that is missing, left over, or of another shape.
    """
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise PlanError(
                f"PEFT weight {name} must have shape {_format_shape(expected.get(name))}, "
                f"got {_format_shape(shapes.get(name))}"
            )


def _format_shape(shape: Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))
