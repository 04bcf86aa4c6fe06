"""Update what depends on the number of heads besides weights: counters, and four special cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.config_view import ConfigView
from lightpeft.modeling.families import (
    BIAS_TABLE,
    GROUP_COUNTS,
    GROUP_SIZES,
    HEAD_COUNTS,
    HEAD_WIDTHS,
)


def update_head_counts(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Tell the attention blocks, whose weights are sliced, which heads are left.

    DeBERTa would be wrong without an error if its counter stayed.
    """
    for block in plan.shape.attention_blocks:
        kept = plan.list_remaining_units(block.path)
        if len(kept) == block.units:
            continue
        core: Any = model.get_submodule(block.path).get_submodule(block.attention_core)
        kv_groups = plan.counts.kv_groups[block.path]
        _set_existing(core, HEAD_COUNTS, len(kept))
        _set_existing(core, HEAD_WIDTHS, len(kept) * block.unit_size)
        _set_existing(core, GROUP_COUNTS, kv_groups)
        _set_existing(core, GROUP_SIZES, len(kept) // kv_groups)
        if block.head_count_rule == "config":
            # Phi-3's attention computes its head counts from `self.config` in `forward`
            # (transformers' `Phi3Attention`).
            core.config = ConfigView(core.config, num_attention_heads=len(kept))
        elif block.head_count_rule == "alibi":
            # A buffer, so that it follows the model to its device.
            heads = torch.tensor(kept, device=next(core.parameters()).device)
            core.register_buffer("lightpeft_heads", heads, persistent=False)
            core.lightpeft_total = block.units
            core.register_forward_pre_hook(_slice_alibi, with_kwargs=True)
    _give_layers_own_position_bias(model, plan)


def restore_kept_heads(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Set which heads are left anew, in a model that was sliced without data and then loaded.

    No checkpoint holds these numbers.
    """
    for block in plan.shape.attention_blocks:
        core: Any = model.get_submodule(block.path).get_submodule(block.attention_core)
        if hasattr(core, "lightpeft_heads"):
            kept, device = plan.list_remaining_units(block.path), next(core.parameters()).device
            core.lightpeft_heads = torch.tensor(kept, device=device)


def _set_existing(core: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if hasattr(core, name):
            setattr(core, name, value)


def _slice_alibi(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Pass on the biases of the kept heads.

    Bloom's and Falcon's models make alibi, and Falcon a mask that contains it, once for all layers
    and for as many heads as their config says; so does MPNet with its position bias.
    """
    kept, total = module.lightpeft_heads, module.lightpeft_total
    alibi = kwargs.get("alibi")
    if alibi is not None and alibi.dim() == 3:  # Bloom: (rows * heads, 1, keys)
        by_head = alibi.unflatten(0, (-1, total))
        return args, kwargs | {"alibi": by_head.index_select(1, kept).flatten(0, 1)}

    def slice_heads(value: Any) -> Any:  # (rows, heads, queries, keys)
        is_per_head = isinstance(value, Tensor) and value.dim() == 4 and value.shape[1] == total
        return value.index_select(1, kept) if is_per_head else value

    return tuple(map(slice_heads, args)), {k: slice_heads(v) for k, v in kwargs.items()}


def _give_layers_own_position_bias(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Let each T5 layer of a stack with pruned heads compute position biases for its own heads.

    In transformers' `T5Stack`, the first layer computes them and passes them to the others.
    """
    stacks: dict[str, list[AttentionBlock]] = {}
    for block in plan.shape.attention_blocks:
        if block.position_bias_owner:
            stacks.setdefault(block.position_bias_owner, []).append(block)
    for owner, blocks in stacks.items():
        if all(plan.units[block.path].is_complete for block in blocks):
            continue
        shared = getattr(model.get_submodule(owner), BIAS_TABLE, None)
        for block in blocks:
            module: Any = model.get_submodule(block.path)
            module.register_forward_pre_hook(_drop_shared_position_bias, with_kwargs=True)
            if shared is not None:
                old = shared.weight
                kept = torch.tensor(plan.list_remaining_units(block.path), device=old.device)
                sliced = old.detach().index_select(1, kept)
                table = nn.Embedding(sliced.shape[0], sliced.shape[1], _weight=sliced)
                table.weight.requires_grad_(old.requires_grad)
                setattr(module, BIAS_TABLE, table)
                module.has_relative_attention_bias = True


def _drop_shared_position_bias(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args, kwargs | {"position_bias": None}
