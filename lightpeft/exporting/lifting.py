"""Make what a lifted adapter must compute on the unpruned base model, without its file."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import PlanError
from lightpeft.core.names import LORA_KEY, PEFT_PREFIX
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
            weight.index_add_(
                dim,
                indices.to(weight.device),
                lora.get_delta_weight(model.active_adapter).to(weight),
            )
    state = get_adapter_state_dict(model).items()
    rows = {k.removeprefix(PEFT_PREFIX): x for k, x in state if not LORA_KEY.fullmatch(k)}
    if unknown := sorted(rows.keys() - lifted.state_dict().keys()):
        raise PlanError(f"the base model has no {unknown[0]}, which the adapter holds")
    lifted.load_state_dict(rows, strict=False)
    return lifted
