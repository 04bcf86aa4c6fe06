"""The LoRA layer of stock peft, with a shorter path to the same output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lightpeft.acceleration.obstacles import find_active_adapter, find_obstacle
from lightpeft.acceleration.products import Operands, compute, compute_in_steps

if TYPE_CHECKING:
    from lightpeft.acceleration.siblings import Siblings


class AcceleratedLinear(Linear):  # type: ignore[misc]  # peft is untyped for mypy
    """A `peft.tuners.lora.Linear` with three kernels forwards and five backwards.

    They are the products that the mathematics needs: scaling, bias and sums are arguments of
    products. Stock peft takes 5 and 7, and under autocast a cast of most operands and results.
    Kept for the backward pass are the input and its product with A, which has as many columns as
    the adapter has ranks. Layers that read the same input take fewer together; see `Siblings`.

    A layer becomes one by `layer.__class__ = AcceleratedLinear`, and stock again by the reverse.
    It keeps its weights, its submodules, and all that peft does with it.

    Attributes:
        operands: layer -> its operands during a forward pass of its body; see `Body`.
        siblings: layers that may be computed with it.
    """

    operands: dict[nn.Module, Operands]
    siblings: Siblings | None

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return the output of the layer, as peft computes it where there is an obstacle."""
        if not (arguments or options):
            is_compiled = torch.compiler.is_compiling()
            if not is_compiled and self.siblings:
                shared = self.siblings.take(self, x)
                if shared is not None:
                    return shared
            if operands := self.find_operands(x):
                is_one = not is_compiled and operands.dropout is None
                return compute(x, operands) if is_one else compute_in_steps(x, operands)
        stock: Tensor = super().forward(x, *arguments, **options)
        return stock

    def find_operands(self, x: Tensor) -> Operands | None:
        """Return what to multiply an input with, B scaled; None where there is an obstacle."""
        # Of a layer that is compiled, scaling and casts become part of the kernels that read them.
        folded = None if torch.compiler.is_compiling() else self.operands.get(self)
        operands = folded
        if operands is None and find_obstacle(self) is None:
            operands = read_operands(self)
        if operands is None or not _can_take(x, operands.weight.dtype):
            return None
        return folded or _fold_adapter(operands)


def read_operands(layer: AcceleratedLinear) -> Operands:
    """Return the operands of a layer without an obstacle, A and B in the dtype that they have."""
    base, name = layer._modules["base_layer"], find_active_adapter(layer)
    weight, bias = base._parameters["weight"], base._parameters["bias"]
    dropout = layer._modules["lora_dropout"]._modules[name]
    return Operands(
        weight if isinstance(base, nn.Linear) else weight.t(),
        bias,
        layer._modules["lora_A"]._modules[name]._parameters["weight"],
        layer._modules["lora_B"]._modules[name]._parameters["weight"],
        layer.scaling[name],
        dropout if dropout.training and isinstance(dropout, nn.Dropout) else None,
    )


def _fold_adapter(operands: Operands) -> Operands:
    """Return the operands of one layer as `fold_adapters` makes those of all.

    To the last bit: gradient checkpointing computes a layer again without its body, and takes what
    that saves for the first forward pass.
    """
    dtype, scaled = operands.weight.dtype, operands.b * operands.scaling
    return operands._replace(a=operands.a.to(dtype), b=scaled.to(dtype), scaling=1.0)


def _can_take(x: Tensor, dtype: torch.dtype) -> bool:
    """Return whether the base layer would compute this input in the dtype of its weight."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return bool(torch.get_autocast_dtype(device) == dtype)
    return bool(x.dtype == dtype)
