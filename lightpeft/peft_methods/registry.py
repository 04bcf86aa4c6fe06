"""The PEFT methods that can be pruned, and what is done alike for all of them."""

from __future__ import annotations

import copy

from peft import PeftConfig
from transformers import PreTrainedModel

from lightpeft.core.names import BOTTLENECK, LORA
from lightpeft.core.peft_settings import check_settings
from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.adapters import make_regex_alternation
from lightpeft.modeling.peft_targets import check_saved_modules, find_modules_to_save
from lightpeft.peft_methods.bottleneck_method import Bottleneck
from lightpeft.peft_methods.lora import Lora
from lightpeft.peft_methods.method import PeftMethod

_METHODS: dict[str, PeftMethod] = {LORA: Lora(), BOTTLENECK: Bottleneck()}


def find_method(config: PeftConfig) -> PeftMethod:
    """Return the method of a config that `check_settings` accepts."""
    return _METHODS[config.peft_type]


def resolve_config(config: PeftConfig, model: PreTrainedModel, shape: ModelShape) -> PeftConfig:
    """Return a copy of the config that names its targets and the task head in full.

    Args:
        config: as the user gives it; not changed.
        model: the plain base model.
        shape: of `model`.

    Raises:
        ModelError: a setting can't be pruned, or a name matches no linear of a block.
    """
    check_settings(config)
    check_saved_modules(config, shape)
    resolved = find_method(config).name_targets(config, model, shape)
    resolved.modules_to_save = find_modules_to_save(model, resolved)
    return resolved


def make_pruned_config(original: PeftConfig, plan: PruningPlan) -> PeftConfig:
    """Return the config of the PEFT modules that a plan keeps, each with its remaining rank."""
    config = copy.deepcopy(original)
    ranks = {name: len(r.kept) for name, r in plan.without_layers.ranks.items() if r.kept}
    # peft matches a string with full names; it would match list entries with endings.
    config.target_modules = make_regex_alternation(sorted(ranks))
    by_rank: dict[int, list[str]] = {}
    for name, rank in sorted(ranks.items()):
        by_rank.setdefault(rank, []).append(name)
    by_rank.pop(original.r, None)
    # One anchored key per rank: peft sorts keys when it saves, and the first match wins.
    config.rank_pattern = {f"^{make_regex_alternation(names)}": r for r, names in by_rank.items()}
    config.inference_mode = False
    find_method(config).set_modules(config, plan, ranks)
    return config


def make_full_config(pruned: PeftConfig, plan: PruningPlan) -> PeftConfig:
    """Return the config of zero-padded PEFT modules on the unpruned model.

    They have one rank, so that readers without rank patterns load them correctly.
    """
    config = copy.deepcopy(pruned)
    names = [name for name, rank in plan.ranks.items() if rank.kept]
    config.target_modules = make_regex_alternation(sorted(names))
    config.rank_pattern, config.inference_mode = {}, True
    find_method(config).set_full_modules(config, plan, names)
    return config
