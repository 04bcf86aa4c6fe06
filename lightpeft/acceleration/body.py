"""The part of a model below its head, which is run with all of its adapters prepared."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from lightpeft.acceleration.adapters import fold_adapters
from lightpeft.acceleration.layer import AcceleratedLinear
from lightpeft.acceleration.products import Operands


class Body:
    """Runs the part of a model below its head, all of its adapters scaled and cast at once.

    In 16 bits it runs without autocast, in the model's own dtype. Autocast computes norms, and
    with them the sums of the residual stream, in float32; most kernels of a step are casts before
    and after. Without it norms and softmax still compute in float32 inside, but round their
    output, as the products that read it would. What is above the body stays under the caller's
    autocast: the head, which may be trained in float32, and the loss.

    Under autocast to another dtype than the model's, all of it computes as in stock peft.

    It is an attribute `forward` of the module, which hides that of its class, as those that the
    package accelerate makes.

    Attributes:
        module: of the model.
        layers: its accelerated layers.
        keeps_autocast: leave autocast as it is.
    """

    def __init__(
        self, module: nn.Module, layers: Sequence[AcceleratedLinear], *, keeps_autocast: bool
    ) -> None:
        self.module, self.layers, self.keeps_autocast = module, layers, keeps_autocast
        self._hidden = module.__dict__.get("forward")
        # Empty but during a forward pass: a copy of the model shares no tensor with it.
        self._operands: dict[nn.Module, Operands] = {}
        for layer in layers:
            layer.__dict__["operands"] = self._operands
        # transformers reads the signature of `forward`.
        module.__dict__["forward"] = functools.update_wrapper(
            functools.partial(_run, self), module.forward
        )

    def restore(self) -> None:
        """Give the module its own forward again."""
        if self._hidden is None:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self._hidden

    def run(self, *arguments: Any, **options: Any) -> Any:
        """Return what the module returns."""
        weight = self.layers[0].base_layer.weight
        dtype, device = weight.dtype, weight.device.type
        has_autocast = torch.is_autocast_enabled(device)
        is_accelerated = not has_autocast or torch.get_autocast_dtype(device) == dtype
        disables = has_autocast and is_accelerated and not self.keeps_autocast
        if disables:
            arguments, options = _cast_floats(arguments, dtype), _cast_floats(options, dtype)
        with torch.autocast(device, enabled=False) if disables else nullcontext():
            # A compiler fuses the casts with what reads them.
            if is_accelerated and not torch.compiler.is_compiling():
                self._operands.update(fold_adapters(self.layers))
            try:
                return self._forward(*arguments, **options)
            finally:
                self._operands.clear()

    def _forward(self, *arguments: Any, **options: Any) -> Any:
        if self._hidden is not None:
            return self._hidden(*arguments, **options)
        return type(self.module).forward(self.module, *arguments, **options)


def find_body(module: nn.Module) -> Body | None:
    """Return what `Body` made of a module; None if it is as it was."""
    forward = module.__dict__.get("forward")
    if not isinstance(forward, functools.partial) or forward.func is not _run:
        return None
    body: Body = forward.args[0]
    return body


def _run(body: Body, *arguments: Any, **options: Any) -> Any:
    # A function of the module, and not the method: pickle would look that up in a half-read Body.
    return body.run(*arguments, **options)


def _cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """Return a value whose float32 tensors have another dtype, also those in containers."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype == torch.float32 else value
    if type(value) in (tuple, list):
        return type(value)(_cast_floats(item, dtype) for item in value)
    if type(value) is dict:
        return {name: _cast_floats(item, dtype) for name, item in value.items()}
    if isinstance(value, ModelOutput):  # of an encoder that ran before, as in `generate`
        return type(value)(**{name: _cast_floats(item, dtype) for name, item in value.items()})
    return value
