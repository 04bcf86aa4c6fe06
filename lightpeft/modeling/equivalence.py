"""Compare a pruned model with the masked one: outputs, LoRA gradients, decoding with the cache."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.names import LORA_KEY
from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.adapters import get_peft_model_unmapped
from lightpeft.modeling.layer_removal import skip_layers
from lightpeft.modeling.masks import Masks
from lightpeft.modeling.random_plans import RANK, draw_layer_plans, draw_plans
from lightpeft.modeling.slicing import slice_base
from lightpeft.modeling.units import find_kept_indices

# Of the largest value: rounding of other summation orders in float32, over a few layers.
_TOLERANCE = 1e-4
_GRADIENT_TOLERANCE = 5e-3
_PREFIX = 5  # tokens that are in the cache when the others are decoded


@dataclass(frozen=True)
class _Computed:
    """What a model computes of a batch; `decoded` is empty if it has no cache."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    decoded: list[Tensor]


def find_difference(
    model: PreTrainedModel,
    shape: ModelShape,
    batch: Mapping[str, Tensor],
    *,
    layers: bool = False,
) -> str | None:
    """Compare pruned with masked by several random plans, LoRA on all block linears.

    Args:
        model: small, on the CPU, in evaluation mode; not changed.
        shape: what can be pruned of it.
        batch: its keyword arguments.
        layers: whether to prune whole layers, which are skipped in the masked model.

    Returns:
        What differs and by how much, or None.
    """
    try:
        adapted = _attach_lora(copy.deepcopy(model), shape.linears)
        decode = _can_decode(adapted.get_base_model(), batch)
        plain = _compute(adapted, batch, decode=decode)
    except Exception as error:  # whatever peft, or the model with it, raises
        return f"with LoRA, it does not run ({' '.join(str(error).split())[:150]})"
    lora = adapted.state_dict()
    for plan in draw_layer_plans(shape) if layers else draw_plans(shape):
        try:
            masked = _compute_masked(adapted, plan, batch, decode=decode)
        except Exception as error:  # layers that name their input in a way of their own
            return f"masked, it does not run ({' '.join(repr(error).split())[:150]})"
        if _measure_difference(plain.outputs, masked.outputs) < 10 * _TOLERANCE:
            return "masks make no difference to its outputs"
        pruned = copy.deepcopy(model)
        try:
            slice_base(pruned, plan)
            if layers and not _is_reloaded(pruned, plan, batch):
                return "saved without a layer, it computes something else"
            found = _compute(_attach_pruned_lora(pruned, plan, lora), batch, decode=decode)
        except Exception as error:  # whatever the model's code raises with sliced weights
            return f"pruned, it does not run ({' '.join(str(error).split())[:150]})"
        gradients = {name: _take(masked.gradients, name, plan) for name in found.gradients}
        for what, expected, other, allowed in (
            ("outputs", masked.outputs, found.outputs, _TOLERANCE),
            (
                "LoRA gradients",
                [*gradients.values()],
                [*found.gradients.values()],
                _GRADIENT_TOLERANCE,
            ),
            ("outputs with the KV cache", masked.decoded, found.decoded, _TOLERANCE),
        ):
            difference = _measure_difference(expected, other)
            if not difference <= allowed:
                return f"pruned and masked {what} differ by {difference:.2g} of the largest"
    return None


def _is_reloaded(model: PreTrainedModel, plan: PruningPlan, batch: Mapping[str, Tensor]) -> bool:
    """Return whether the stock class computes the same from the config and the weights.

    It can't where layers keep different numbers of heads or neurons: then nothing is compared.
    """
    if not all(units.is_complete for units in plan.without_layers.units.values()):
        return True
    stock = (
        type(model)
        ._from_config(
            copy.deepcopy(model.config), attn_implementation=model.config._attn_implementation
        )
        .eval()
    )
    stock.load_state_dict(model.state_dict())
    with torch.no_grad():
        rows = [_compute_outputs(x, batch) for x in (model, stock)]
    return _measure_difference(*rows) <= _TOLERANCE


def _attach_lora(model: PreTrainedModel, linears: Iterable[str]) -> PeftModel:
    config = LoraConfig(
        r=RANK, target_modules="|".join(map(re.escape, linears)), init_lora_weights=False
    )
    return get_peft_model_unmapped(model, config).eval()


def _attach_pruned_lora(
    model: PreTrainedModel, plan: PruningPlan, lora: Mapping[str, Tensor]
) -> PeftModel:
    """Attach the rows and columns of LoRA's unpruned factors that belong to what a plan keeps."""
    adapted = _attach_lora(model, [path for path, x in plan.without_layers.ranks.items() if x.kept])
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.copy_(_take(lora, name, plan))
    return adapted


def _take(factors: Mapping[str, Tensor], name: str, plan: PruningPlan) -> Tensor:
    """Return what a plan keeps of the unpruned tensor that the pruned model has by this name."""
    match = LORA_KEY.fullmatch(name.replace(".default", ""))
    assert match is not None
    old = plan.old_paths[match["linear"]]
    return _slice(factors[name.replace(match["linear"], old)], old, match["factor"], plan)


def _slice(tensor: Tensor, path: str, factor: str, plan: PruningPlan) -> Tensor:
    """Return what a plan keeps of a tensor with the shape of an unpruned LoRA factor, A or B."""
    linear = plan.shape.linears[path]
    if (factor == "A") != (linear.pruned_dim == "in"):
        return tensor
    units = plan.list_remaining_units(plan.shape.block_of[path].path)
    return tensor.index_select(int(factor == "A"), find_kept_indices(linear, units))


def find_unused(
    model: PreTrainedModel, shape: ModelShape, batch: Mapping[str, Tensor]
) -> list[str]:
    """Return the blocks whose output projections the model's outputs do not depend on."""
    with Masks(model, shape, l1=0.0) as masks:
        torch.autograd.backward(_compute_loss(_collect_floats(model(**batch))))
        model.zero_grad()
        named = masks.heads | masks.neurons
        return [path for path, mask in named.items() if mask.grad is None]


def _compute_masked(
    model: PeftModel, plan: PruningPlan, batch: Mapping[str, Tensor], *, decode: bool
) -> _Computed:
    """Compute with all that the plan prunes multiplied by 0."""
    base = model.get_base_model()
    with Masks(base, plan.shape, l1=0.0) as masks, skip_layers(base, plan), torch.no_grad():
        for path, mask in (masks.heads | masks.neurons).items():
            mask.zero_()
            mask[list(plan.units[path].kept)] = 1.0
        with torch.enable_grad():
            return _compute(model, batch, decode=decode)


def _compute_loss(outputs: list[Tensor]) -> Tensor:
    """Return a scalar that depends on every output."""
    generator = torch.Generator().manual_seed(0)
    products = [(x * torch.randn(x.shape, generator=generator)).mean() for x in outputs]
    return torch.stack(products).sum()


def _compute(model: PeftModel, batch: Mapping[str, Tensor], *, decode: bool) -> _Computed:
    base = model.get_base_model()
    model.zero_grad()
    outputs = _compute_outputs(base, batch)
    torch.autograd.backward(_compute_loss(outputs))
    gradients = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    with torch.no_grad():
        decoded = _decode(base, batch) if decode else []
    return _Computed([x.detach() for x in outputs], gradients, decoded)


def _compute_outputs(model: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)  # some models draw random numbers, such as the patches to leave out
    return _collect_floats(model(**batch))


def _can_decode(model: Any, batch: Mapping[str, Tensor]) -> bool:
    """Return whether a model takes a text in two parts, with a cache between them."""
    names = inspect.signature(model.forward).parameters
    is_text = set(batch) <= {"input_ids", "attention_mask"}
    if not is_text or not {"past_key_values", "use_cache"} <= set(names):
        return False
    try:
        with torch.no_grad():
            return bool(_decode(model, batch))
    except Exception:  # whatever the model raises: it can't, pruned or not
        return False


def _decode(model: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the outputs of the last tokens, with the first ones in the cache; none without one."""
    first = {name: value[:, :_PREFIX] for name, value in batch.items()}
    past = getattr(model(**first, use_cache=True), "past_key_values", None)
    if past is None:
        return []
    rest = dict(batch) | {"input_ids": batch["input_ids"][:, _PREFIX:]}
    return _collect_floats(model(**rest, past_key_values=past, use_cache=True))


def _collect_floats(value: Any) -> list[Tensor]:
    """Return the logits of a model's output, or all floating-point tensors in it."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        if isinstance(value.get("logits"), Tensor):
            return [value["logits"]]
        value = [x for name, x in value.items() if name != "past_key_values"]
    return (
        [x for item in value for x in _collect_floats(item)]
        if isinstance(value, list | tuple)
        else []
    )


def _measure_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference, as a fraction of the largest value; NaN if there is one."""
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float("inf")
    if not expected:
        return 0.0
    scale = max(float(x.abs().max()) for x in expected)
    differences = torch.stack([(a - b).abs().max() for a, b in zip(expected, found, strict=True)])
    return float(differences.max()) / max(scale, torch.finfo(torch.float32).tiny)
