"""Make what a lifted adapter must compute on the unpruned base model, without its file."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.adapter_layout import parse_adapter_key
from lightpeft.core.errors import PlanError
from lightpeft.core.names import DORA, PEFT_PREFIX
from lightpeft.modeling.adapters import get_adapter_state_dict
from lightpeft.modeling.units import find_kept_indices
from lightpeft.pruning.prune import get_plan


def make_lifted_model(model: PeftModel, base: PreTrainedModel) -> PreTrainedModel:
    """Return an unpruned base model plus the change that a pruned model's adapter makes.

    Args:
        model: from `prune` or `load`; gives the change of each weight, and the task head.
        base: the unpruned base model of its plan, which is left as it is.

    Returns:
        A copy of the base model in float32, with the change added to the rows and columns that
        the plan keeps.

    Raises:
        PlanError: the base model has no place for the task head.
    """
    plan, pruned = get_plan(model), model.get_base_model()
    rest, lifted = plan.without_layers, copy.deepcopy(base).float().eval()
    with torch.no_grad():
        for path, rank in rest.ranks.items():
            if not rank.kept:
                continue
            linear, module = rest.shape.linears[path], lifted.get_submodule(plan.old_paths[path])
            indices = find_kept_indices(
                linear, rest.list_remaining_units(rest.shape.block_of[path].path)
            )
            lora: Any = pruned.get_submodule(path)
            dim = int((linear.pruned_dim == "out") == isinstance(module, Conv1D))
            weight = module.get_parameter("weight")
            indices = indices.to(weight.device)
            change = lora.get_delta_weight(model.active_adapter).to(weight)
            if plan.peft_type == DORA:
                rows = indices if linear.pruned_dim == "out" else torch.arange(linear.outputs)
                change = _apply_magnitudes(
                    lora, weight, change, rows.to(weight.device), model.active_adapter
                )
            weight.index_add_(dim, indices, change)
    state = get_adapter_state_dict(model).items()
    head = {k.removeprefix(PEFT_PREFIX): x for k, x in state if parse_adapter_key(k) is None}
    if unknown := sorted(head.keys() - lifted.state_dict().keys()):
        raise PlanError(f"the base model has no {unknown[0]}, which the adapter holds")
    lifted.load_state_dict(head, strict=False)
    return lifted


def _apply_magnitudes(
    lora: Any, weight: Tensor, change: Tensor, rows: Tensor, adapter: str
) -> Tensor:
    """Multiply rows of a base weight by the factors of DoRA, in place.

    Args:
        lora: the pruned layer.
        weight: of the unpruned base linear.
        change: what LoRA adds to the pruned weight.
        rows: outputs that the pruned layer has.
        adapter: its name.

    Returns:
        The change, multiplied alike.
    """
    pruned = lora.get_base_layer()
    dim = int(isinstance(pruned, Conv1D))
    norms = (pruned.weight.to(change) + change).norm(dim=1 - dim)
    magnitudes = lora.lora_magnitude_vector[adapter].weight.to(change)
    factors = (magnitudes / norms).unsqueeze(1 - dim)
    weight.index_copy_(dim, rows, weight.index_select(dim, rows) * factors)
    scaled: Tensor = change * factors
    return scaled
