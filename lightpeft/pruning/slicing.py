"""Cut a base model's tensors down to the units that a plan keeps."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.blocks import family_at
from lightpeft.modeling.fingerprint import sizes
from lightpeft.modeling.units import kept_indices
from lightpeft.pruning.head_counts import update_head_counts


def slice_base(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Remove the heads and neurons that the plan does not keep; the model must be the plan's.

    A block that the plan empties keeps one unit, which its projection no longer reads: no code
    path of the model changes, and the KV cache goes on counting.
    """
    for name, linear in plan.shape.linears.items():
        rows = kept_indices(linear, plan.remaining_units(linear.block))
        slice_linear(model.get_submodule(name), rows, linear.side)
    for block in plan.heads:
        for name in family_at(model, block).per_head_extra:
            _slice_vector(model.get_submodule(block), name, plan, block)
    update_head_counts(model, plan)
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
        setattr(owner, leaf, select(weight, 0, kept_indices(reader, plan.remaining_units(block))))
