"""The weights of PEFT modules: from full size to what a plan keeps, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.adapter_layout import LAYOUTS, AdapterKey, parse_adapter_key
from lightpeft.core.errors import PlanError
from lightpeft.core.names import PEFT_PREFIX
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.adapters import check_shapes
from lightpeft.modeling.units import find_kept_indices


def slice_adapter(weights: Mapping[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Slice full-size PEFT weights to the plan; the task head is returned as it is.

    Args:
        weights: under peft's names, of the unpruned model; shapes as in `LAYOUTS`.
        plan: what to keep.

    Returns:
        The weights of the modules that are kept, with the rows and columns that are kept, under
        the names of the pruned model.

    Raises:
        PlanError: a weight is of another shape, or of no PEFT module of the plan.
    """
    sliced, new_paths = {}, {old: new for new, old in plan.old_paths.items()}
    for name, weight in weights.items():
        key = parse_adapter_key(name)
        if key is None:
            sliced[name] = weight
            continue
        units = plan.ranks.get(key.linear)
        size = None if units is None else _find_unpruned_size(key, plan)
        check_shapes({name: weight.shape}, {name: size})
        if units and units.kept:
            for dim, indices in enumerate(_find_indices(key, plan)):
                weight = weight.index_select(dim, indices)
            sliced[str(replace(key, linear=new_paths[key.linear]))] = weight
    return sliced


def zero_pad_adapter(weights: Mapping[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Expand pruned PEFT weights with zeros to the unpruned shapes and ranks.

    The inverse of `slice_adapter`, up to what was pruned.
    """
    padded = {}
    for name, weight in weights.items():
        key = parse_adapter_key(name)
        if key is None:
            padded[name] = weight
            continue
        key = replace(key, linear=plan.old_paths[key.linear])
        full = weight.new_zeros(_find_unpruned_size(key, plan))
        full[torch.meshgrid(*_find_indices(key, plan), indexing="ij")] = weight
        padded[str(key)] = full
    return padded


def check_adapter_shapes(
    weights: Mapping[str, Tensor], plan: PruningPlan, model: PreTrainedModel | None = None
) -> None:
    """Check that pruned PEFT weights are those that a plan describes.

    Args:
        weights: under peft's names.
        plan: gives the shapes of the weights of PEFT modules.
        model: the base model, whose modules give the shapes of the task head; None: not checked.

    Raises:
        PlanError: names a weight that is missing, left over, of another shape, or of a wrong dtype.
    """
    shapes = {key: weight.shape for key, weight in weights.items()}
    model_shapes, model_weights = shapes, dict(weights)
    if model is not None:
        model_weights = {f"{PEFT_PREFIX}{name}": x for name, x in model.state_dict().items()}
        model_shapes = {name: weight.shape for name, weight in model_weights.items()}
    for key, weight in weights.items():
        is_float = key not in model_weights or model_weights[key].is_floating_point()
        if weight.is_floating_point() != (is_float or parse_adapter_key(key) is not None):
            raise PlanError(f"PEFT weight {key} must not be of dtype {weight.dtype}")
    expected = {key: model_shapes.get(key) for key in shapes if parse_adapter_key(key) is None}
    rest = plan.without_layers
    for path, units in rest.ranks.items():
        inputs, outputs = rest.compute_pruned_shape(path)
        sizes = {"rank": len(units.kept), "inputs": inputs, "outputs": outputs}
        for name, dims in LAYOUTS[plan.peft_type].items() if units.kept else ():
            expected[str(AdapterKey(path, name))] = torch.Size(sizes[dim] for dim in dims)
    check_shapes(shapes, expected)


def _find_unpruned_size(key: AdapterKey, plan: PruningPlan) -> torch.Size:
    """Return the shape of a PEFT weight of the unpruned model."""
    linear, rank = plan.shape.linears[key.linear], plan.ranks[key.linear].total
    sizes = {"rank": rank, "inputs": linear.inputs, "outputs": linear.outputs}
    return torch.Size(sizes[dim] for dim in key.dims)


def _find_indices(key: AdapterKey, plan: PruningPlan) -> list[Tensor]:
    """Return what the pruned model has of a PEFT weight of the unpruned one, by dimension."""
    linear, ranks = plan.shape.linears[key.linear], plan.ranks[key.linear].kept
    units = plan.list_remaining_units(plan.shape.block_of[key.linear].path)
    kept = {"rank": torch.tensor(ranks)}
    kept |= {"inputs": torch.arange(linear.inputs), "outputs": torch.arange(linear.outputs)}
    kept[f"{linear.pruned_dim}puts"] = find_kept_indices(linear, units)
    return [kept[dim] for dim in key.dims]
