"""Fold the adapter into a pruned base model, and pad the merged weights to the unpruned shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.errors import ModelError, PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.families import BIAS_TABLE, PER_HEAD_COLUMNS
from lightpeft.modeling.fingerprint import is_quantized
from lightpeft.modeling.stock_config import explain_unwritten, list_shapes
from lightpeft.modeling.units import find_kept_indices


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Return a copy of the pruned base model with the adapter folded into its weights.

    Raises:
        ModelError: a weight of the base is quantized, or one of the adapter is not finite.
    """
    packed = [name for name, weight in model.named_parameters() if is_quantized(weight)]
    if packed:
        raise ModelError(
            f"{packed[0]} is quantized, and packed weights can't take the adapter; load the "
            f"adapter onto the unquantized base model with lightpeft.load, and export that"
        )
    try:
        merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    except ValueError as error:  # peft found NaN
        raise ModelError(f"the adapter can't be merged: {error}") from error
    return merged.eval()


def check_stock_config(merged: PreTrainedModel, plan: PruningPlan) -> None:
    """Check that the stock class builds a merged model's weights from its config.

    Raises:
        PlanError: it does not, since the config can't say what the plan keeps.
    """
    shapes, stock = list_shapes(merged), list_shapes(_build_empty(merged, merged.config))
    names = [name for name in shapes | stock if shapes.get(name) != stock.get(name)]
    if names:
        reason = explain_unwritten(merged.config, plan.without_layers) or names[0]
        raise PlanError(
            f"format stock: a {plan.shape.model_type} config can't say what this plan keeps: "
            f"{reason}; take format merged or padded, or see docs/architectures.md for plans that "
            f"it can say"
        )


def pad_merged(
    merged: PreTrainedModel, plan: PruningPlan, config: PreTrainedConfig
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Give a merged model's heads and neurons their old places, with zeros between them.

    What was pruned then adds zero, as if it was masked. Layers that were pruned stay away: every
    config can say how many there are.

    Args:
        merged: from `merge_adapter`.
        plan: that it was pruned by.
        config: of the model with all heads and neurons.

    Returns:
        The stock model with all heads and neurons, on the meta device, and its weights.

    Raises:
        PlanError: the padded weights are not those that the stock class has.
    """
    rest, empty = plan.without_layers, _build_empty(merged, config).to(merged.dtype)
    if merged.can_generate():
        empty.generation_config = merged.generation_config
    shapes, weights = list_shapes(empty), dict(merged.state_dict())
    for block in rest.shape.blocks:
        units = rest.list_remaining_units(block.path)
        for path, linear in block.linears.items():
            indices, is_output = find_kept_indices(linear, units), linear.pruned_dim == "out"
            is_transposed = isinstance(merged.get_submodule(path), Conv1D)
            _scatter(weights, shapes, f"{path}.weight", int(is_output == is_transposed), indices)
            if is_output and f"{path}.bias" in weights:
                _scatter(weights, shapes, f"{path}.bias", 0, indices)
        if isinstance(block, AttentionBlock):
            for path in block.per_head_weights:
                dim = int(path.endswith(PER_HEAD_COLUMNS))
                of_head = torch.arange(shapes[path][dim]).reshape(block.units, -1)
                _scatter(weights, shapes, path, dim, of_head[list(units)].flatten())
    _pad_position_biases(weights, rest)
    wrong = {name for name in shapes if name not in weights or weights[name].shape != shapes[name]}
    if wrong or weights.keys() - shapes.keys():
        name = min(wrong | (weights.keys() - shapes.keys()))
        raise PlanError(f"format padded: this {plan.shape.model_type} has no place for {name}")
    return empty, weights


def _scatter(
    weights: dict[str, Tensor],
    shapes: Mapping[str, torch.Size],
    name: str,
    dim: int,
    indices: Tensor,
) -> None:
    """Put the rows of a pruned weight where they were, and zeros elsewhere."""
    pruned = weights[name]
    if pruned.shape != shapes.get(name, pruned.shape):
        full = pruned.new_zeros(shapes[name])
        weights[name] = full.index_copy(dim, indices.to(pruned.device), pruned)


def _pad_position_biases(weights: dict[str, Tensor], plan: PruningPlan) -> None:
    """Join the tables of position biases of T5's layers in that of the first one.

    Each layer with pruned heads has the columns of its own heads, from one table.
    """
    joined: dict[str, Tensor] = {}
    for block in plan.shape.attention_blocks:
        table = weights.pop(f"{block.path}.{BIAS_TABLE}.weight", None)
        if table is not None:
            name = f"{block.position_bias_owner}.{BIAS_TABLE}.weight"
            full = joined.setdefault(name, table.new_zeros(len(table), block.units))
            full[:, list(plan.list_remaining_units(block.path))] = table
    weights.update(joined)


def _build_empty(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of the same class and another config on the meta device."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return type(model)(copy.deepcopy(config))
