"""LoRA's config and weights: from full size to what a plan keeps, and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import PlanError
from lightpeft.core.names import LORA_KEY, PEFT_PREFIX
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.adapters import check_shapes, make_regex_alternation
from lightpeft.modeling.units import find_kept_indices


def make_pruned_lora_config(original: LoraConfig, plan: PruningPlan) -> LoraConfig:
    """Return the config of the PEFT modules that a plan keeps, each with its remaining rank.

    The scaling of a module, ``lora_alpha / r``, stays that of the original rank: pruning a rank
    removes one term of ``B @ A`` and leaves the others as they are.
    """
    config = copy.deepcopy(original)
    ranks = {name: len(r.kept) for name, r in plan.without_layers.ranks.items() if r.kept}
    # peft matches a string with full names; it would match list entries with endings.
    config.target_modules = make_regex_alternation(sorted(ranks))
    config.exclude_modules = None
    by_rank: dict[int, list[str]] = {}
    for name, rank in sorted(ranks.items()):
        by_rank.setdefault(rank, []).append(name)
    by_rank.pop(original.r, None)
    # One anchored key per rank: peft sorts keys when it saves, and the first match wins.
    config.rank_pattern = {f"^{make_regex_alternation(names)}": r for r, names in by_rank.items()}
    scaling = original.lora_alpha / (math.sqrt(original.r) if original.use_rslora else original.r)
    config.alpha_pattern = {
        key: scaling * (math.sqrt(rank) if original.use_rslora else rank)
        for key, rank in config.rank_pattern.items()
    }
    config.inference_mode = False
    return config


def slice_adapter(weights: Mapping[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Slice full-size PEFT weights to the plan; the task head is returned as it is.

    Args:
        weights: under peft's names: LoRA A, shape ``(r, in_features)``, and LoRA B, shape
            ``(out_features, r)``, of the unpruned model.
        plan: what to keep.

    Returns:
        The weights of the modules that are kept, with the rows and columns that are kept, under
        the names of the pruned model.

    Raises:
        PlanError: a weight is of another shape, or of no PEFT module of the plan.
    """
    sliced, new_paths = {}, {old: new for new, old in plan.old_paths.items()}
    for key, weight in weights.items():
        match = LORA_KEY.fullmatch(key)
        if match is None:
            sliced[key] = weight
            continue
        units = plan.ranks.get(match["linear"])
        size = (
            None if units is None else _find_unpruned_size(match["linear"], match["factor"], plan)
        )
        check_shapes({key: weight.shape}, {key: size})
        if units and units.kept:
            rows, columns = _find_factor_indices(match["linear"], match["factor"], plan)
            new_key = key.replace(match["linear"], new_paths[match["linear"]])
            sliced[new_key] = weight[rows[:, None], columns]
    return sliced


def zero_pad_adapter(weights: Mapping[str, Tensor], plan: PruningPlan) -> dict[str, Tensor]:
    """Expand pruned PEFT weights with zeros to the unpruned shapes and ranks.

    The inverse of `slice_adapter`, up to what was pruned.
    """
    padded = {}
    for key, weight in weights.items():
        match = LORA_KEY.fullmatch(key)
        if match is None:
            padded[key] = weight
            continue
        linear, factor = plan.old_paths[match["linear"]], match["factor"]
        rows, columns = _find_factor_indices(linear, factor, plan)
        full = weight.new_zeros(_find_unpruned_size(linear, factor, plan))
        full[rows[:, None], columns] = weight
        padded[key.replace(match["linear"], linear)] = full
    return padded


def check_adapter_shapes(
    weights: Mapping[str, Tensor], plan: PruningPlan, model: PreTrainedModel | None = None
) -> None:
    """Check that pruned PEFT weights are those that a plan describes.

    Args:
        weights: under peft's names.
        plan: gives the shapes of LoRA's factors.
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
        if weight.is_floating_point() != (is_float or LORA_KEY.fullmatch(key) is not None):
            raise PlanError(f"PEFT weight {key} must not be of dtype {weight.dtype}")
    expected = {key: model_shapes.get(key) for key in shapes if LORA_KEY.fullmatch(key) is None}
    rest = plan.without_layers
    for name, units in rest.ranks.items():
        rank, (inputs, outputs) = len(units.kept), rest.compute_pruned_shape(name)
        if rank:
            expected[f"{PEFT_PREFIX}{name}.lora_A.weight"] = torch.Size((rank, inputs))
            expected[f"{PEFT_PREFIX}{name}.lora_B.weight"] = torch.Size((outputs, rank))
    check_shapes(shapes, expected)


def _find_unpruned_size(name: str, factor: str, plan: PruningPlan) -> torch.Size:
    """Return the shape of a linear's full LoRA factor."""
    linear, rank = plan.shape.linears[name], plan.ranks[name].total
    return torch.Size((rank, linear.inputs) if factor == "A" else (linear.outputs, rank))


def _find_factor_indices(name: str, factor: str, plan: PruningPlan) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of a linear's full LoRA factor that the pruned one holds."""
    linear, ranks = plan.shape.linears[name], torch.tensor(plan.ranks[name].kept)
    units = find_kept_indices(linear, plan.list_remaining_units(plan.shape.block_of[name].path))
    if factor == "A":
        return ranks, units if linear.pruned_dim == "in" else torch.arange(linear.inputs)
    return units if linear.pruned_dim == "out" else torch.arange(linear.outputs), ranks
