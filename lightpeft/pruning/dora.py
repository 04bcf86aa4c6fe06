"""The magnitudes of DoRA (arXiv:2402.09353): for a pruned linear, and back for the unpruned one.

A module computes ``m / |V| * (V x)`` with ``V = W + s B A``, where ``|V|`` holds the norms of the
rows of ``V``, of which no gradient is taken. Rows are pruned together with their magnitudes. But
if columns are pruned, the rows are shorter, and ``m / |V|`` would be another factor: to keep it,
``m`` is multiplied by the new norm divided by the old one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from peft import LoraConfig
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.names import PEFT_PREFIX
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.units import find_kept_indices

_MAGNITUDE = ".lora_magnitude_vector"


def fit_magnitudes(
    sliced: Mapping[str, Tensor],
    full: Mapping[str, Tensor],
    plan: PruningPlan,
    model: PreTrainedModel,
    config: LoraConfig,
) -> dict[str, Tensor]:
    """Return sliced PEFT weights with magnitudes that keep the factors of the kept rows.

    The pruned model then computes what the unpruned one does with the same units masked, and with
    the pruned ranks set to 0.

    Args:
        sliced: what `slice_adapter` made of `full`, under the names of the pruned model.
        full: PEFT weights of the unpruned model, with ranks that are pruned.
        plan: what is kept.
        model: the unpruned base model.
        config: of the unpruned adapter, for the scaling.
    """
    fitted = dict(sliced)
    for key, magnitude in sliced.items():
        if not key.endswith(_MAGNITUDE):
            continue
        path = plan.old_paths[_get_path(key)]
        ranks = torch.tensor(plan.ranks[path].kept)
        a, b = (full[f"{PEFT_PREFIX}{path}.lora_{factor}.weight"] for factor in "AB")
        merged = _merge(model, path, a[ranks], b[:, ranks], config)
        rows, columns = _find_kept(path, plan)
        kept = merged[rows]
        ratio = kept[:, columns].norm(dim=1) / kept.norm(dim=1)
        fitted[key] = (magnitude * ratio).to(magnitude.dtype)
    return fitted


def expand_magnitudes(
    padded: Mapping[str, Tensor], plan: PruningPlan, model: PreTrainedModel, config: LoraConfig
) -> dict[str, Tensor]:
    """Return zero-padded PEFT weights with magnitudes for the unpruned base model.

    The inverse of `fit_magnitudes`; rows that were pruned get the norm of their base weights, with
    which they compute what the base model does.

    Args:
        padded: from `zero_pad_adapter`, under the names of the unpruned model.
        plan: what was kept.
        model: the unpruned base model.
        config: of the adapter, for the scaling.
    """
    expanded = dict(padded)
    for key, magnitude in padded.items():
        if not key.endswith(_MAGNITUDE):
            continue
        path = _get_path(key)
        a, b = (padded[f"{PEFT_PREFIX}{path}.lora_{factor}.weight"] for factor in "AB")
        merged = _merge(model, path, a, b, config)
        rows, columns = _find_kept(path, plan)
        full, kept = merged.norm(dim=1), merged[rows]
        full[rows] = magnitude[rows] * kept.norm(dim=1) / kept[:, columns].norm(dim=1)
        expanded[key] = full.to(magnitude.dtype)
    return expanded


def _get_path(key: str) -> str:
    return key.removeprefix(PEFT_PREFIX).removesuffix(_MAGNITUDE)


def _merge(model: PreTrainedModel, path: str, a: Tensor, b: Tensor, config: LoraConfig) -> Tensor:
    """Return ``W + s B A`` of a linear, shape ``(outputs, inputs)``, in float32 on the CPU."""
    module = model.get_submodule(path)
    weight: Tensor = dequantize_module_weight(module).detach().float().cpu()
    scaling = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    base = weight.T if isinstance(module, Conv1D) else weight
    merged: Tensor = base + scaling * (b.float().cpu() @ a.float().cpu())
    return merged


def _find_kept(path: str, plan: PruningPlan) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of a linear that are kept."""
    linear = plan.shape.linears[path]
    units = find_kept_indices(linear, plan.list_remaining_units(plan.shape.block_of[path].path))
    rows, columns = torch.arange(linear.outputs), torch.arange(linear.inputs)
    return (units, columns) if linear.pruned_dim == "out" else (rows, units)
