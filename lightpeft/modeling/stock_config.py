"""Write a uniform cut into the model's config, so that the stock class loads the merged model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.config_view import ConfigView, unwrap_config
from lightpeft.modeling.families import CONFIG_NEURONS, find_families


def write_stock_config(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Give a sliced model a config with its new sizes, if the stock class then builds the same.

    So what `merge_and_unload` and `save_pretrained` write can be read by `from_pretrained`, and by
    anything else that reads the config. The config stays as it is if layers keep different numbers
    of units, if `Family.config_expressible` says that the config can't express the cut, if its own
    checks refuse the numbers, or if the stock class makes weights of other names or shapes of them.

    Args:
        model: the sliced base model, before PEFT modules are attached; gets a new config object.
        plan: by which it was sliced.
    """
    old = model.config
    config = _make_pruned_config(old, plan)
    if config is None or _find_refusal(config) or not _builds_same_weights(config, model):
        return
    replace_configs(model, {id(old): config})


def replace_configs(model: PreTrainedModel, new: Mapping[int, Any]) -> None:
    """Give other configs to the modules of a model; other models that share one keep theirs.

    A view with fewer heads is replaced too; the attention function of a block stays its own.

    Args:
        model: changed in place.
        new: id of a config -> what replaces it.
    """
    for module in model.modules():
        owned = getattr(module, "config", None)
        config = new.get(id(unwrap_config(owned)))
        if config is None:
            continue
        module.config = config
        if isinstance(owned, ConfigView) and "_attn_implementation" in vars(owned):
            name = owned._attn_implementation
            module.config = ConfigView(config, _attn_implementation=name)


def _make_pruned_config(old: PreTrainedConfig, plan: PruningPlan) -> PreTrainedConfig | None:
    """Return a copy of the config with the numbers of a uniform cut; None if there is none."""
    pruned, config = _count_pruned(plan), copy.deepcopy(old)
    if not pruned or _find_inexpressible(plan):
        return None
    kv_groups = set(plan.counts.kv_groups.values())
    if len(kv_groups) > 1:
        return None
    values: dict[str, Any] = {}
    if "heads" in pruned:
        values["num_attention_heads"], values["num_key_value_heads"] = *pruned["heads"], *kv_groups
        values["head_dim"] = plan.shape.attention_blocks[0].unit_size
        if not hasattr(old, "num_key_value_heads"):
            del values["num_key_value_heads"]
    if "neurons" in pruned:
        totals = {None, *plan.shape.neurons.values()}  # GPT-2's may be None, for 4 times the width
        keys = [key for key in CONFIG_NEURONS if hasattr(old, key) and getattr(old, key) in totals]
        values |= dict.fromkeys(keys, *pruned["neurons"])
    for name, value in values.items():
        setattr(config, name, value)
    return config


def explain_unwritten(config: PreTrainedConfig, plan: PruningPlan) -> str:
    """Return why `write_stock_config` left a model its config; empty if its weights say it."""
    pruned = _make_pruned_config(config, plan)
    return _find_inexpressible(plan) if pruned is None else _find_refusal(pruned)


def _find_refusal(config: PreTrainedConfig) -> str:
    """Return why a config could not be saved or loaded: Llama's heads must divide the width."""
    validate: Any = getattr(config, "validate", None)
    try:
        if validate is not None:
            validate()
    except Exception as error:  # whatever a config's checks raise
        return " ".join(str(error.__cause__ or error).split()).rstrip(".")
    return ""


def _find_inexpressible(plan: PruningPlan) -> str:
    """Return what of a plan no stock config of its architecture can say; empty if nothing is."""
    families = find_families(plan.shape.model_type)
    for unit, counts in _count_pruned(plan).items():
        if not all(unit in family.config_expressible for family in families):
            return f"fewer {unit}"
        if len(counts) > 1:
            return f"different numbers of {unit} per layer (uniform: true makes them equal)"
    return "" if families else "other sizes"


def _count_pruned(plan: PruningPlan) -> dict[str, set[int]]:
    """Return heads and neurons, if any are pruned -> the numbers that blocks keep."""
    groups: dict[str, dict[str, KeptUnits]] = {"heads": plan.heads, "neurons": plan.neurons}
    return {
        name: {len(plan.list_remaining_units(path)) for path in group}
        for name, group in groups.items()
        if not all(units.is_complete for units in group.values())
    }


def _builds_same_weights(config: PreTrainedConfig, model: PreTrainedModel) -> bool:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            stock = type(model)(copy.deepcopy(config))
    except Exception:  # whatever a constructor finds wrong with the numbers
        return False
    return list_shapes(stock) == list_shapes(model)


def list_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of all weights and buffers that a checkpoint holds."""
    return {name: weight.shape for name, weight in model.state_dict().items()}
