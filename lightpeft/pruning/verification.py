"""Check that a pruned model computes what the masked model computes, on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.layer_removal import skip_layers
from lightpeft.modeling.masks import Masks
from lightpeft.modeling.slicing import slice_base

# Fraction of the largest output: rounding of other summation orders.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_NOT_COMPARED = ("loss", "past_key_values")


def slice_and_verify(model: PreTrainedModel, plan: PruningPlan, batch: Mapping[str, Any]) -> float:
    """Slice a base model in place, and check its outputs against those of the masked model.

    A wrong slice often raises no error: the model runs, but computes something else. PEFT modules
    are not part of the check: before they are attached one copy of the model is enough, and their
    weights follow the same rows and columns.

    Each block is compared by what its output projection returns, which in the sliced model is then
    replaced by what the masked one returned. Otherwise rounding errors would grow from layer to
    layer: of SmolLM2-135M with random heads and neurons pruned, logits in bfloat16 differ by more
    than their own size.

    Args:
        model: the base model of the plan (see `check_plan_matches_model`); sliced in place.
        plan: what to keep.
        batch: the model's keyword arguments; labels make no difference.

    Returns:
        The largest difference of a block's outputs, or of the model's, as a fraction of the
        largest of these outputs.

    Raises:
        ModelError: the difference is more than rounding in the model's dtype, or the pruned model
            does not run. The model stays sliced.
    """
    blocks = _BlockOutputs([model.get_submodule(x.output_projection) for x in plan.shape.blocks])
    with blocks.record():
        expected = _compute_masked_outputs(model, plan, batch)
    slice_base(model, plan)
    try:
        with blocks.replay():
            outputs = _compute_outputs(model, batch)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"pruned, the model does not run: {reason}") from error
    if [row.shape for row in expected] != [row.shape for row in outputs]:
        raise ModelError("pruned, the model's outputs have other shapes than masked")
    difference = _find_largest([*blocks.differences, _compare(expected, outputs)])
    allowed = _TOLERANCE.get(model.dtype, 1e-4)
    if not difference <= allowed:
        raise ModelError(
            f"pruned, the model's outputs differ from the masked model's by {difference:.2g} "
            f"of the largest, allowed are {allowed:g}: this {plan.shape.model_type} model keeps "
            f"heads, neurons or layers in a way that lightpeft does not know"
        )
    return difference


class _BlockOutputs:
    """What the output projections of a model return in one run, to compare with another run.

    Attributes:
        differences: of each call, as a fraction of the largest recorded value.
    """

    def __init__(self, projections: Iterable[nn.Module]) -> None:
        self.differences: list[float] = []
        self._recorded: dict[nn.Module, list[Tensor]] = {module: [] for module in projections}

    def record(self) -> ExitStack:
        """Record what the projections return; a context manager."""
        return self._hook_all(self._record)

    def replay(self) -> ExitStack:
        """Compare what they return, and replace it by what was recorded; a context manager."""
        return self._hook_all(self._replay)

    def _hook_all(self, hook: Callable[[nn.Module, Any, Tensor], Tensor | None]) -> ExitStack:
        hooks = ExitStack()
        for module in self._recorded:
            hooks.callback(module.register_forward_hook(hook).remove)
        return hooks

    def _record(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self._recorded[module].append(output.clone())  # the model may add to it in place

    def _replay(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        expected = self._recorded[module].pop(0)
        self.differences.append(_compare([expected], [output]))
        return expected


def _compare(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Return the largest difference as a fraction of the largest expected value, or NaN."""
    scale = max(float(row.abs().max()) for row in expected)
    pairs = zip(expected, outputs, strict=True)
    differences = [float((a.float() - b.float()).abs().max()) for a, b in pairs]
    return _find_largest(differences) / max(scale, torch.finfo(torch.float32).tiny)


def _find_largest(values: Sequence[float]) -> float:
    """Return the largest value; NaN if one is."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def _compute_masked_outputs(
    model: PreTrainedModel, plan: PruningPlan, batch: Mapping[str, Any]
) -> list[Tensor]:
    """Return the outputs of the unpruned model, what the plan prunes multiplied by 0 or skipped."""
    with Masks(model, plan.shape, l1=0.0) as masks, skip_layers(model, plan), torch.no_grad():
        for path, mask in (masks.heads | masks.neurons).items():
            mask.zero_()
            mask[list(plan.units[path].kept)] = 1.0
        return _compute_outputs(model, batch)


def _compute_outputs(model: PreTrainedModel, batch: Mapping[str, Any]) -> list[Tensor]:
    """Return all floating-point outputs in float32, or the logits alone, in evaluation mode."""
    was_training = model.training
    inputs = send_to_device(dict(batch), next(model.parameters()).device)
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)  # some models draw numbers, such as the patches to leave out
            outputs = dict(model(**inputs).items())
    finally:
        model.train(was_training)
    if "logits" in outputs:
        outputs = {"logits": outputs["logits"]}
    return [
        value.float()
        for name, value in outputs.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in _NOT_COMPARED
    ]
