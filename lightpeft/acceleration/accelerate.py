"""Accelerate the LoRA layers of a model, and undo it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from lightpeft.acceleration.body import Body, find_body
from lightpeft.acceleration.dropouts import shorten_draws
from lightpeft.acceleration.layer import AcceleratedLinear
from lightpeft.acceleration.norms import fuse_norms
from lightpeft.acceleration.obstacles import find_obstacle
from lightpeft.acceleration.siblings import group_siblings
from lightpeft.acceleration.variant import Variant, restore_class

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)
_UNLOADING = ("merge_and_unload", "unload")  # what returns the base model without PEFT modules


@dataclass(frozen=True, kw_only=True)
class AccelerationReport:
    """What `accelerate` changed, and what it left as it was.

    Attributes:
        layers: paths of the accelerated layers.
        left: path of each other LoRA layer -> why.
        bodies: paths of the modules that run without autocast; none of a model that is not 16-bit.
        autocast: path of each module that goes on running under autocast -> why.
        norms: paths of the RMS norms that run as one kernel on CUDA.
        dropouts: paths of the dropouts that draw fewer random bits on a CPU.

    Example:
        >>> lightpeft.accelerate(pruned).left
        {}
    """

    layers: tuple[str, ...]
    left: Mapping[str, str]
    bodies: tuple[str, ...]
    autocast: Mapping[str, str]
    norms: tuple[str, ...]
    dropouts: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line: how many layers, and the reasons with their numbers."""
        total = len(self.layers) + len(self.left)
        if not total:
            return "no LoRA layers to accelerate"
        parts = [f"{len(self.layers)} of {total} LoRA layers accelerated"]
        parts += [f"{count} left: {why}" for why, count in Counter(self.left.values()).items()]
        parts += [f"{path} stays under autocast: {why}" for path, why in self.autocast.items()]
        return "; ".join(parts)


def accelerate(model: nn.Module) -> AccelerationReport:
    """Let LoRA layers compute their output and gradients in as few kernels as they have products.

    The model is changed in place and stays the stock `PeftModel` that it was: weights, state dict,
    saving, merging, disabling and switching of adapters. Results are the same within the rounding
    of the dtype, but for dropout on a CPU, which draws fewer random bits: with the same seed it
    drops other elements than stock torch, of the same distribution. What can't be accelerated,
    such as DoRA or a quantized linear, stays as it is, and the report names it; a layer in a state
    that is not the usual one (merged, adapters disabled or several active) computes as in stock
    peft until it is back in it. RMS norms with the code of Llama's run as one kernel each way on
    CUDA. `merge_and_unload` and `unload` undo it first, so that they return a stock model.

    In a 16-bit model that is trained under autocast with float32 adapters, as transformers'
    `Trainer` does with ``bf16=True``, the model below the head no longer runs under autocast: it
    computes in its own dtype, and its adapters are cast all at once. Under autocast to another
    dtype, such as that of a float32 model to bfloat16, layers compute as in stock peft.

    Call it once the model is on its device and in its dtype, and has its adapter. Calling it again
    does the same anew.

    Args:
        model: with LoRA layers of peft, or without any.

    Returns:
        What was accelerated, and what was not and why; `str` of it is one line.

    Example:
        >>> print(lightpeft.accelerate(pruned))
        7 of 7 LoRA layers accelerated
    """
    undo_acceleration(model)
    layers: dict[str, AcceleratedLinear] = {}
    left: dict[str, str] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        why = find_obstacle(layer) if type(layer) is Linear else f"a {type(layer).__name__} of peft"
        if why:
            left[path] = why
        else:
            layers[path] = _accelerate_layer(layer)
    group_siblings(model)
    norms = fuse_norms(model) if layers else []
    dropouts = shorten_draws(model) if layers else []
    bodies, autocast = [], {}
    for path, body in _find_bodies(model).items():
        members = [x for x in body.modules() if isinstance(x, AcceleratedLinear)]
        if not members:
            continue
        is_16_bit = members[0].base_layer.weight.dtype in _SIXTEEN_BITS
        why = _find_float32(body, members) if is_16_bit else None
        Body(body, members, keeps_autocast=not is_16_bit or why is not None)
        if why:
            autocast[path] = why
        elif is_16_bit:
            bodies.append(path)
    if layers:
        _undo_before_unloading(model)
    return AccelerationReport(
        layers=tuple(layers),
        left=left,
        bodies=tuple(bodies),
        autocast=autocast,
        norms=tuple(norms),
        dropouts=tuple(dropouts),
    )


def undo_acceleration(model: nn.Module) -> None:
    """Make a model again what it was before `accelerate`; one that was not accelerated stays so.

    Args:
        model: changed in place.

    Example:
        >>> lightpeft.undo_acceleration(pruned)
    """
    for module in model.modules():
        if isinstance(module, AcceleratedLinear):
            module.__class__ = Linear
            del module.__dict__["operands"], module.__dict__["siblings"]
        elif isinstance(module, Variant):
            restore_class(module)
            module.__dict__.pop("siblings", None)
        if body := find_body(module):
            body.restore()
        if isinstance(module, BaseTuner):
            for name in _UNLOADING:
                module.__dict__.pop(name, None)


def _undo_before_unloading(model: nn.Module) -> None:
    for tuner in model.modules():
        if isinstance(tuner, BaseTuner):
            for name in _UNLOADING:
                tuner.__dict__[name] = functools.partial(_unload, tuner, name)


def _unload(tuner: BaseTuner, name: str, *arguments: Any, **options: Any) -> Any:
    """Return the base model as peft does, without acceleration."""
    undo_acceleration(tuner)
    return getattr(tuner, name)(*arguments, **options)


def _accelerate_layer(layer: Linear) -> AcceleratedLinear:
    layer.__class__ = AcceleratedLinear
    layer.__dict__["operands"], layer.__dict__["siblings"] = {}, None
    accelerated: AcceleratedLinear = layer
    return accelerated


def _find_bodies(model: nn.Module) -> dict[str, nn.Module]:
    """Return what is below the head, by path: the body by transformers' name, or all submodules.

    Of a model without a head, or of an encoder and a decoder side by side, these are its children,
    or their own where a child is a list of layers, whose `forward` nothing calls.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    body = getattr(base, "base_model", base)
    found = [body]
    if body is base:
        lists = (x if isinstance(x, nn.ModuleList) else [x] for x in base.children())
        found = [*chain.from_iterable(lists)]
    return {path: module for path, module in model.named_modules() if module in found}


def _find_float32(body: nn.Module, layers: Sequence[AcceleratedLinear]) -> str | None:
    """Return which weight of a body needs autocast: one that is trained, or of another dtype."""
    adapters = {
        id(weight)
        for layer in layers
        for part in (layer.lora_A, layer.lora_B)
        for weight in part.parameters()
    }
    dtype = layers[0].base_layer.weight.dtype
    for path, weight in body.named_parameters():
        if id(weight) in adapters:
            continue
        if weight.requires_grad:
            return f"{path} is trained"
        if weight.dtype != dtype:
            return f"{path} is {str(weight.dtype).removeprefix('torch.')}"
    return None
