"""What keeps a LoRA layer from being accelerated, now or for good."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

_BASES = (nn.Linear, Conv1D, FalconLinear)
_TENSORS = (nn.Parameter, torch.Tensor, FakeTensor)  # fake: without data, else as any other
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def find_active_adapter(layer: Linear) -> str | None:
    """Return the name of the one active adapter of a layer; None if it has none, or several."""
    adapters = layer._modules["lora_A"]._modules  # as all look-ups here, for speed: see below
    names = [name for name in layer.active_adapters if name in adapters]
    return names[0] if len(names) == 1 else None


def find_obstacle(layer: Linear) -> str | None:
    """Return why a layer can't take the short path in its present state; None if it can.

    Asked in every forward pass: adapters are switched, merged and trained while a model lives. So
    it reads submodules and weights from the dicts that `nn.Module.__getattr__` searches.
    """
    if layer._disable_adapters:
        return "its adapters are disabled"
    if layer.merged_adapters:
        return "its adapter is merged"
    name = find_active_adapter(layer)
    if name is None:
        return "not exactly one of its adapters is active"
    if name in layer.lora_variant:
        return f"its adapter is a {type(layer.lora_variant[name]).__name__}"
    if layer.lora_bias[name]:
        return "its adapter has a bias"
    modules = layer._modules
    for part in ("lora_A", "lora_B", "lora_dropout"):
        if is_hooked(modules[part]._modules[name]):
            return "a part of it has a hook"
    base = modules["base_layer"]
    return "a part of it has a hook" if is_hooked(base) else _find_base_obstacle(base)


def _find_base_obstacle(base: nn.Module) -> str | None:
    """Return what of the base layer is not a plain frozen matrix product."""
    if type(base) not in _BASES:
        return f"its base layer is a {type(base).__name__}"
    weight: Any = base._parameters["weight"]
    bias = base._parameters["bias"]
    if type(weight) not in _TENSORS or weight.dtype not in _DTYPES:
        return "its base layer is quantized"
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return "its base layer is trained"
    return None


def is_hooked(module: nn.Module) -> bool:
    """Return whether a call of a module does more than its class says, which would be skipped."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
