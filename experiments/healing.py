"""Healing, tried on decoders: kept columns of an output projection stand in for pruned ones.

It is no part of lightpeft, see experiments.trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel
from torch import Tensor, nn

from experiments.trials import load_estimated_model, read_batches
from lightpeft import prune
from lightpeft.core.errors import ConfigError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.units import find_kept_indices
from lightpeft.pruning import checkpoint
from pipeline.stages import finetune

_RIDGE = 0.01  # of the mean square of the inputs


class Healing(StrEnum):
    """Where the correction of a pruned output projection goes."""

    WEIGHTS = "weights"
    BIAS = "bias"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Correction:
    """Of one output projection, which keeps some of its columns.

    Attributes:
        weight: [outputs, kept], that added to the kept columns stands in for the pruned ones.
        bias: [outputs], the mean of what the pruned columns added.
        moments: [kept, kept], second moments of the kept inputs, ridge included.
    """

    weight: Tensor
    bias: Tensor
    moments: Tensor


@contextmanager
def heal(batches: int, form: Healing) -> Iterator[None]:
    """Let the kept columns of each output projection stand in for the pruned ones.

    By least squares: with second moments C of the projection's inputs in the unpruned model after
    the estimation, ``W_kept + W_gone C[gone, kept] (C[kept, kept] + ridge)^-1``. As a bias, only
    the mean ``W_gone E[x_gone]`` is added. In the adapter, its two factors become the nearest of
    their rank to this correction and what they had learned, by the error of the output.

    Args:
        batches: of training rows for the moments.
    """
    corrections: dict[str, Correction] = {}

    def prune_and_heal(
        model: Any, plan: PruningPlan, *arguments: Any, **settings: Any
    ) -> PeftModel:
        if not plan.keeps_base_intact:
            corrections.update(_compute_corrections(plan, batches))
        pruned = prune(model, plan, *arguments, **settings)
        _correct(pruned, corrections, form)
        return pruned

    def load(*arguments: Any, **settings: Any) -> PeftModel:
        loaded = plain_load(*arguments, **settings)
        if form is not Healing.ADAPTER:  # the artefact has its factors
            _correct(loaded, corrections, form)
        return loaded

    plain_load = checkpoint.load
    with ExitStack() as patches:
        patches.enter_context(patch.object(finetune, "prune", prune_and_heal))
        patches.enter_context(patch.object(checkpoint, "load", load))
        yield


def compute_correction(
    weight: Tensor, second: Tensor, means: Tensor, kept: Tensor, ridge: float = _RIDGE
) -> Correction:
    """Return what the kept columns of a weight add to stand in for the others.

    Args:
        weight: [outputs, inputs].
        second: [inputs, inputs], E[x x^T] of its inputs.
        means: [inputs], E[x].
        kept: indices of the columns that are kept, ascending.
        ridge: added to the diagonal, times the mean square of the inputs.
    """
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[kept] = False
    moments = second[kept][:, kept] + ridge * second.diagonal().mean() * torch.eye(len(kept))
    carried = weight[:, gone] @ second[gone][:, kept]
    correction = torch.linalg.solve(moments, carried.T).T
    return Correction(correction, weight[:, gone] @ means[gone], moments)


def _compute_corrections(plan: PruningPlan, batches: int) -> dict[str, Correction]:
    """Return new path of an output projection -> its correction."""
    model = load_estimated_model()
    base = model.get_base_model()
    new_paths = {old: new for new, old in plan.old_paths.items()}
    moments: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    tokens = 0
    with ExitStack() as hooks:
        for block in plan.shape.blocks:
            path = block.output_projection
            if path in new_paths and not plan.units[block.path].is_complete:
                size = block.linears[path].inputs
                moments[path], sums[path] = torch.zeros(size, size), torch.zeros(size)

                def add(module: Any, args: Any, path: str = path) -> None:
                    x = args[0].detach()[mask["real"]].float()
                    moments[path].addmm_(x.T, x)
                    sums[path] += x.sum(0)

                hooks.callback(base.get_submodule(path).register_forward_pre_hook(add).remove)
        for batch in read_batches(batches):
            mask["real"] = batch["attention_mask"].bool()
            tokens += int(mask["real"].sum())
            with torch.no_grad():
                base(**batch)
    corrections = {}
    for path, total in moments.items():
        linear = plan.shape.linears[path]
        kept = find_kept_indices(linear, plan.list_remaining_units(plan.shape.block_of[path].path))
        weight = base.get_submodule(path).base_layer.weight.data
        means = sums[path] / tokens
        corrections[new_paths[path]] = compute_correction(weight, total / tokens, means, kept)
    return corrections


def _correct(model: PeftModel, corrections: Mapping[str, Correction], form: Healing) -> None:
    for path, correction in corrections.items():
        linear: Any = model.get_base_model().get_submodule(path)
        base = getattr(linear, "base_layer", linear)
        if form is Healing.WEIGHTS:
            base.weight.data += correction.weight
        elif form is Healing.BIAS:
            bias = correction.bias if base.bias is None else base.bias.data + correction.bias
            base.bias = nn.Parameter(bias, requires_grad=False)
        elif not hasattr(linear, "lora_A"):
            raise ConfigError(f"{path} has no LoRA module to heal in; prune.modules must be 0")
        else:
            correct_adapter(linear, correction)


def correct_adapter(layer: Any, correction: Correction) -> None:
    """Set factors whose product is nearest to theirs plus the correction, by E |error x|^2."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    scaling = layer.scaling["default"]
    root = torch.linalg.cholesky(correction.moments)
    wanted = (correction.weight + scaling * up.data @ down.data) @ root
    left, sizes, right = torch.linalg.svd(wanted, full_matrices=False)
    rank = len(down)
    outputs = left[:, :rank] * sizes[:rank] / scaling
    inputs = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    sizes_in, sizes_out = inputs.norm(dim=1), outputs.norm(dim=0)
    balance = torch.where(sizes_out > 0, sizes_in / sizes_out, 1).sqrt()  # factors of the same size
    up.data.copy_(outputs * balance)
    down.data.copy_(inputs / balance[:, None])
