"""Several adapters of one plan on one pruned model, each under its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peft import PeftConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor

from lightpeft.core.errors import ModelError, PlanError
from lightpeft.core.kept_units import format_ranges
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.adapters import (
    add_adapter_unmapped,
    check_adapter_state_dict,
    load_adapter_state_dict,
)
from lightpeft.peft_methods.registry import find_method
from lightpeft.pruning.prune import Quantize, get_plan

_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter that was read from a folder.

    Attributes:
        name: that it gets on the model.
        plan: that it was pruned by.
        config: from `make_pruned_config`.
        weights: under peft's names.
    """

    name: str
    plan: PruningPlan
    config: PeftConfig
    weights: dict[str, Tensor]


def check_adapter_name(name: str, config: PeftConfig) -> None:
    """Refuse what can't be a part of a module's path, or is one that peft finds weights by.

    Raises:
        ModelError: names what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"adapter_name must be of letters, digits, _ and -, got {name!r}")
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type]
    if name in prefix:
        raise ModelError(f"adapter_name must be no part of {prefix!r}, got {name!r}")


def check_has_adapter(model: PeftModel, name: str) -> None:
    """Check that a model has an adapter of this name.

    Raises:
        ModelError: lists the names that there are.
    """
    if name not in model.peft_config:
        names = ", ".join(model.peft_config)
        raise ModelError(f"the model has no adapter {name!r}; it has {names or 'none'}")


def add_adapter(
    model: PeftModel, adapter: Adapter, *, trainable: bool, quantize: Quantize | None
) -> PeftModel:
    """Add an adapter to a pruned model, or replace the weights of the one with its name.

    Which adapter is active, and which weights of the others are trained, stays as it was.

    Args:
        model: pruned by the adapter's plan.
        adapter: to add.
        trainable: whether its weights are trained.
        quantize: must be None, since the base model is pruned already.

    Returns:
        The model.

    Raises:
        ModelError: the model has no plan or no adapter, or `quantize` is given.
        PlanError: the model was pruned by another plan, or the adapter has another task head;
            the model is as it was.
    """
    own, name = get_plan(model), adapter.name
    if quantize is not None:
        raise ModelError("quantize is for a base model; this one is pruned and has an adapter")
    check_same_plan(adapter.plan, own)
    active = model.peft_config.get(model.active_adapter) if model.peft_config else None
    if active is None:
        raise ModelError("the model has no adapter left; load onto the unpruned base model")
    check_adapter_state_dict(model, adapter.weights)
    if name in model.peft_config:
        _check_settings(model.peft_config[name], adapter)
    adapter.config.base_model_name_or_path = active.base_model_name_or_path
    flags = {id(weight): weight.requires_grad for weight in model.parameters()}
    if name not in model.peft_config:
        add_adapter_unmapped(model, adapter.config, adapter_name=name)
        model.train(model.training)  # peft makes its dropouts in training mode
        for weight in model.parameters():  # peft trains the active adapter again
            weight.requires_grad_(flags.get(id(weight), trainable))
    load_adapter_state_dict(model, adapter.weights, adapter_name=name)
    return model


def check_same_plan(plan: PruningPlan, own: PruningPlan) -> None:
    """Refuse an adapter's plan that is not the one of a model.

    Raises:
        PlanError: names the first difference.
    """
    if own.digest != plan.digest:
        raise PlanError(
            f"the model was pruned by another plan, {own.digest}, than the adapter, "
            f"{plan.digest}: {_describe_difference(plan, own)}"
        )


def _check_settings(config: PeftConfig, adapter: Adapter) -> None:
    """Refuse an adapter whose weights can't replace those of another one with other settings."""
    for key in find_method(config).fixed_settings:
        old, new = getattr(config, key), getattr(adapter.config, key)
        if old != new:
            raise PlanError(
                f"the adapter {adapter.name!r} of the model has {key} {old}, this one {new}; "
                f"delete_adapter({adapter.name!r}) first, or take another name"
            )


def _describe_difference(plan: PruningPlan, own: PruningPlan) -> str:
    """Return the first thing in which an adapter's plan differs from a model's."""
    if plan.fingerprint != own.fingerprint:
        return f"its base weights are {plan.fingerprint}, not {own.fingerprint}"
    for group in ("layers", "heads", "neurons", "ranks"):
        ours, theirs = getattr(own, group), getattr(plan, group)
        for path in sorted(ours.keys() | theirs.keys()):
            old, new = (
                format_ranges(units[path].kept) or "none" if path in units else "all"
                for units in (ours, theirs)
            )
            if old != new:
                return f"it keeps {group} {new} of {path}, the model {old}"
    return "it was made from other scores or settings"
