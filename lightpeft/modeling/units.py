"""Map heads and neurons to the rows and columns of the linears that carry them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightpeft.core.block_shape import LinearShape


def find_kept_indices(linear: LinearShape, kept: Sequence[int]) -> Tensor:
    """Return the rows or columns (`linear.pruned_dim`) that a block linear keeps, ascending.

    Args:
        linear: unpruned.
        kept: query heads or neurons that its block keeps.
    """
    units = torch.zeros(linear.units, dtype=torch.bool)
    units[list(kept)] = True
    by_group = units.reshape(linear.num_kv_groups, linear.heads_per_kv_group)
    groups = by_group.any(dim=1)
    slots = {
        "units": units,
        "groups": groups,
        "interleaved": torch.cat([by_group, groups[:, None], groups[:, None]], dim=1).flatten(),
    }
    kept_slots = torch.cat([slots[segment] for segment in linear.segments])
    return kept_slots.repeat_interleave(linear.unit_size).nonzero().flatten()


def sum_per_unit(linear: LinearShape, values: Tensor) -> Tensor:
    """Sum values per row or column over units; what heads share is split evenly among them.

    Args:
        linear: unpruned.
        values: one per row or column (`linear.pruned_dim`).

    Returns:
        A sum per query head or neuron, shape `(units,)`.
    """
    groups, heads = linear.num_kv_groups, linear.heads_per_kv_group
    slots = values.reshape(-1, linear.unit_size).sum(dim=1)
    total = torch.zeros(linear.units, device=values.device)
    start = 0
    for segment in linear.segments:
        width = {"units": heads, "groups": 1, "interleaved": heads + 2}[segment]
        by_group = slots[start : start + groups * width].reshape(groups, width)
        start += groups * width
        if segment != "groups":
            total += by_group[:, :heads].flatten()
        if segment != "units":
            shared = by_group if segment == "groups" else by_group[:, heads:]
            total += (shared.sum(dim=1) / heads).repeat_interleave(heads)
    return total
