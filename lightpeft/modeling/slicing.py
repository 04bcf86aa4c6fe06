"""Slice a base model's tensors down to the units that a plan keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.families import PER_HEAD_COLUMNS
from lightpeft.modeling.fingerprint import get_in_out_features
from lightpeft.modeling.head_counts import update_head_counts
from lightpeft.modeling.layer_removal import remove_layers
from lightpeft.modeling.skipping import skip_emptied_blocks
from lightpeft.modeling.units import find_kept_indices


def slice_base(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Remove the layers, heads and neurons that the plan does not keep; the model is the plan's.

    A block that the plan empties keeps one unit, which its projection no longer reads: no code
    path of the model changes, and the KV cache keeps counting. Its linears then run no matrix
    product, see `skip_emptied_blocks`.

    Raises:
        PlanError: the model's class can't have the layers that are left.
    """
    remove_layers(model, plan)
    plan = plan.without_layers
    for block in plan.shape.blocks:
        units = plan.list_remaining_units(block.path)
        for path, linear in block.linears.items():
            indices = find_kept_indices(linear, units)
            slice_linear(model.get_submodule(path), indices, linear.pruned_dim)
        if isinstance(block, AttentionBlock):
            for path in block.per_head_weights if len(units) < block.units else ():
                parent, _, name = path.rpartition(".")
                owner, weight = model.get_submodule(parent), model.get_parameter(path)
                dim = int(name == PER_HEAD_COLUMNS)
                of_head = torch.arange(weight.shape[dim]).reshape(block.units, -1)
                setattr(owner, name, index_parameter(weight, dim, of_head[list(units)].flatten()))
        if not plan.units[block.path].kept:
            model.get_submodule(block.output_projection).weight.detach().zero_()
    skip_emptied_blocks(model, plan)
    update_head_counts(model, plan)


def slice_linear(linear: nn.Module, indices: Tensor, pruned_dim: str) -> None:
    """Keep some rows (`out`) or columns (`in`) of a Linear or a Conv1D."""
    assert isinstance(linear, nn.Linear | Conv1D)
    is_output, is_transposed = pruned_dim == "out", isinstance(linear, Conv1D)
    if len(indices) == get_in_out_features(linear)[int(is_output)]:
        return
    linear.weight = index_parameter(linear.weight, int(is_output == is_transposed), indices)
    names = ("nx", "nf") if is_transposed else ("in_features", "out_features")
    setattr(linear, names[int(is_output)], len(indices))
    if is_output and linear.bias is not None:
        linear.bias = index_parameter(linear.bias, 0, indices)


def index_parameter(old: Tensor, dim: int, indices: Tensor) -> nn.Parameter:
    """Return a parameter with only some rows of another."""
    kept = old.detach().index_select(dim, indices.to(old.device))
    return nn.Parameter(kept, requires_grad=old.requires_grad)
