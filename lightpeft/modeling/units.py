"""Map heads and neurons to the rows and columns of the linears that carry them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightpeft.core.shape import LinearShape


def kept_indices(linear: LinearShape, kept: Sequence[int]) -> Tensor:
    """Rows or columns (`linear.side`) that stay of a block linear, ascending.

    Args:
        linear: unpruned.
        kept: query heads or neurons that its block keeps.
    """
    units = torch.zeros(linear.units, dtype=torch.bool)
    units[list(kept)] = True
    by_group = units.reshape(linear.groups, linear.sharing)
    alive = by_group.any(dim=1)
    runs = {
        "units": units,
        "groups": alive,
        "interleaved": torch.cat([by_group, alive[:, None], alive[:, None]], dim=1).flatten(),
    }
    slots = torch.cat([runs[run] for run in linear.slots])
    return slots.repeat_interleave(linear.unit).nonzero().flatten()


def sum_per_unit(linear: LinearShape, values: Tensor) -> Tensor:
    """Sum values per row or column over units; what heads share is split evenly among them.

    Args:
        linear: unpruned.
        values: one per row or column (`linear.side`).

    Returns:
        A sum per query head or neuron, shape `(units,)`.
    """
    groups, sharing = linear.groups, linear.sharing
    slots = values.reshape(-1, linear.unit).sum(dim=1)
    total = torch.zeros(linear.units, device=values.device)
    start = 0
    for run in linear.slots:
        width = {"units": sharing, "groups": 1, "interleaved": sharing + 2}[run]
        own = slots[start : start + groups * width].reshape(groups, width)
        start += groups * width
        if run != "groups":
            total += own[:, :sharing].flatten()
        if run != "units":
            shared = own if run == "groups" else own[:, sharing:]
            total += (shared.sum(dim=1) / sharing).repeat_interleave(sharing)
    return total
