"""What has to change with the number of heads besides weights: counters, and four odd cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.blocks import child, family_at, head_size, layer_of
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
    for block, cut in plan.heads.items():
        kept = plan.remaining_units(block)
        if len(kept) == cut.total:
            continue
        family = family_at(model, block)
        core: Any = child(model.get_submodule(block), family.attention_core)
        groups = plan.num_kv_groups(block)
        _set(core, HEAD_COUNTS, len(kept))
        _set(core, HEAD_WIDTHS, len(kept) * head_size(core))
        _set(core, GROUP_COUNTS, groups)
        _set(core, GROUP_SIZES, len(kept) // groups)
        if family.head_count_rule == "config":
            core.config = _ConfigView(core.config, len(kept))
        elif family.head_count_rule == "alibi":
            # A buffer, so that it follows the model to its device.
            heads = torch.tensor(kept, device=next(core.parameters()).device)
            core.register_buffer("lightpeft_heads", heads, persistent=False)
            core.lightpeft_total = cut.total
            core.register_forward_pre_hook(_slice_alibi, with_kwargs=True)
    _give_layers_own_position_bias(model, plan)


class _ConfigView:
    """One block's view of the model's config (Phi-3 reads its heads from there, in forward)."""

    def __init__(self, config: Any, heads: int) -> None:
        self.__dict__.update(_config=config, num_attention_heads=heads)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)


def _set(core: nn.Module, names: tuple[str, ...], value: int) -> None:
    for name in names:
        if hasattr(core, name):
            setattr(core, name, value)


def _slice_alibi(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model makes alibi, and Falcon's mask with it, for all heads that it once had."""
    kept, total = module.lightpeft_heads, module.lightpeft_total
    alibi, mask = kwargs.get("alibi"), kwargs.get("attention_mask")
    if alibi is None:
        return args, kwargs
    if alibi.dim() == 3:  # Bloom: (rows * heads, 1, keys)
        wide = alibi.unflatten(0, (-1, total))
        return args, kwargs | {"alibi": wide.index_select(1, kept).flatten(0, 1)}
    kwargs = kwargs | {"alibi": alibi.index_select(1, kept)}
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1] == total:
        kwargs["attention_mask"] = mask.index_select(1, kept)
    return args, kwargs


def _give_layers_own_position_bias(model: PreTrainedModel, plan: PruningPlan) -> None:
    """T5 hands its first layer's position biases to the others; heads cut, each needs its own."""
    lenders = plan.shape.lenders
    stacks: dict[str, list[str]] = {}  # self-attention and cross-attention each hand on their own
    for block in plan.heads:
        if family_at(model, block).head_count_rule == "bias_table":
            cross = f"cross-attention of {str(layer_of(block)).rpartition('.')[0]}"
            stacks.setdefault(lenders.get(block, cross), []).append(block)
    for blocks in stacks.values():
        if all(len(plan.heads[block].kept) == plan.heads[block].total for block in blocks):
            continue
        tables = {
            block: model.get_submodule(f"{lender}.{BIAS_TABLE}").weight
            for block, lender in lenders.items()
            if block in blocks
        }
        for block in blocks:
            module: Any = model.get_submodule(block)
            module.register_forward_pre_hook(_drop_shared_position_bias, with_kwargs=True)
            if block in tables:
                kept = torch.tensor(plan.remaining_units(block), device=tables[block].device)
                own = tables[block].detach().index_select(1, kept)
                table = nn.Embedding(own.shape[0], own.shape[1], _weight=own)
                table.weight.requires_grad_(tables[block].requires_grad)
                setattr(module, BIAS_TABLE, table)
                module.has_relative_attention_bias = True


def _drop_shared_position_bias(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args, kwargs | {"position_bias": None}
