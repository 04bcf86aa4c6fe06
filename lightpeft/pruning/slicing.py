"""Cut a base model's tensors down to the units that a plan keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import LinearShape
from lightpeft.modeling.blocks import family_at
from lightpeft.modeling.fingerprint import sizes
from lightpeft.pruning.head_counts import settle


def kept_rows(linear: LinearShape, kept: Sequence[int]) -> Tensor:
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
        "mixed": torch.cat([by_group, alive[:, None], alive[:, None]], dim=1).flatten(),
    }
    slots = torch.cat([runs[run] for run in linear.slots])
    return slots.repeat_interleave(linear.unit).nonzero().flatten()


def by_unit(linear: LinearShape, values: Tensor) -> Tensor:
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
        width = {"units": sharing, "groups": 1, "mixed": sharing + 2}[run]
        own = slots[start : start + groups * width].reshape(groups, width)
        start += groups * width
        if run != "groups":
            total += own[:, :sharing].flatten()
        if run != "units":
            shared = own if run == "groups" else own[:, sharing:]
            total += (shared.sum(dim=1) / sharing).repeat_interleave(sharing)
    return total


def slice_base(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Remove the heads and neurons that the plan does not keep; the model must be the plan's.

    A block that the plan empties keeps one unit, which its projection no longer reads: no code
    path of the model changes, and the KV cache goes on counting.
    """
    for name, linear in plan.shape.linears.items():
        rows = kept_rows(linear, plan.stays(linear.block))
        slice_linear(model.get_submodule(name), rows, linear.side)
    for block in plan.heads:
        for name in family_at(model, block).heads_also:
            _slice_vector(model.get_submodule(block), name, plan, block)
    settle(model, plan)
    for block, cut in {**plan.heads, **plan.neurons}.items():
        if not cut.kept:
            model.get_submodule(plan.shape.readers[block]).weight.detach().zero_()


def slice_linear(linear: nn.Module, rows: Tensor, side: str) -> None:
    """Keep some rows (`out`) or columns (`in`) of a Linear or a Conv1D."""
    assert isinstance(linear, nn.Linear | Conv1D)
    out, turned = side == "out", isinstance(linear, Conv1D)
    dim = int(out == turned)
    if len(rows) == sizes(linear)[int(out)]:
        return
    linear.weight = select(linear.weight, dim, rows)
    names = ("nf", "nx") if turned else ("out_features", "in_features")
    setattr(linear, names[0 if out else 1], len(rows))
    if out and linear.bias is not None:
        linear.bias = select(linear.bias, 0, rows)


def select(old: Tensor, dim: int, index: Tensor) -> nn.Parameter:
    """A parameter with only some rows of another."""
    kept = old.detach().index_select(dim, index.to(old.device))
    return nn.Parameter(kept, requires_grad=old.requires_grad)


def _slice_vector(module: nn.Module, name: str, plan: PruningPlan, block: str) -> None:
    """Slice a parameter of the block itself, if it has it, that holds as many rows per head."""
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent) if parent else module
    weight = owner._parameters.get(leaf)
    if weight is not None:
        reader = plan.shape.linears[plan.shape.readers[block]]
        setattr(owner, leaf, select(weight, 0, kept_rows(reader, plan.stays(block))))
