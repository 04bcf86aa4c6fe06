"""The LoRA layer of stock peft, with a shorter path to the same output."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from lightpeft.acceleration.obstacles import find_active_adapter, find_obstacle


class Operands(NamedTuple):
    """What a layer multiplies its input with.

    Attributes:
        weight: of the base layer, shape ``(out, in)``.
        bias: of the base layer, shape ``(out,)``, or None.
        a: LoRA A, shape ``(rank, in)``.
        b: LoRA B, shape ``(out, rank)``, with its scaling if `scaling` is 1.
        scaling: factor that `b` still lacks.
        dropout: of the adapter's input; None where it does nothing.
    """

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scaling: float
    dropout: nn.Module | None


class AcceleratedLinear(Linear):  # type: ignore[misc]  # peft is untyped for mypy
    """A `peft.tuners.lora.Linear` with three kernels forwards and six backwards.

    They are the products that the mathematics needs, and the sum of two gradients of the input:
    scaling, bias and the other sums are arguments of products. Stock peft takes 5 and 7, and under
    autocast a cast of most operands and results. Kept for the backward pass are the input and its
    product with A, which has as many columns as the adapter has ranks.

    Deviation: a differentiable function of our own needs five kernels backwards, but written in
    Python it takes the host longer than the kernel that it saves.

    A layer becomes one by `layer.__class__ = AcceleratedLinear`, and stock again by the reverse.
    It keeps its weights, its submodules, and all that peft does with it.

    Attributes:
        operands: layer -> its operands during a forward pass of its body; see `Body`.
    """

    operands: dict[nn.Module, Operands]

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Return the output of the layer, as peft computes it where there is an obstacle."""
        # Of a layer that is compiled, scaling and casts become part of the kernels that read them.
        folded = None if torch.compiler.is_compiling() else self.operands.get(self)
        operands = folded
        if operands is None and find_obstacle(self) is None:
            operands = read_operands(self)
        if operands is None or arguments or options or not _can_take(x, operands.weight.dtype):
            output: Tensor = super().forward(x, *arguments, **options)
            return output
        return _compute(x, folded or _fold_adapter(operands))


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


def _compute(x: Tensor, operands: Operands) -> Tensor:
    """Return ``x W^T + c + d A^T B^T``, where B is scaled and ``d`` is ``x`` after dropout.

    ``d A^T`` is computed transposed, and on a CPU B is copied into its transpose, so that no
    gradient is a product with a narrow result, for which MKL takes three to five times as long as
    for the transposed product.
    """
    weight, bias, a, b, _, dropout = operands
    rows = x.to(weight.dtype).reshape(-1, x.shape[-1])
    output = linear(rows, weight, bias)
    read = rows if dropout is None else dropout(rows)
    b_transposed = b.t()
    if b.dtype == torch.float32 and b.device.type == "cpu":
        b_transposed = b_transposed.contiguous()
    output.addmm_((a @ read.t()).t(), b_transposed)
    return output.view(*x.shape[:-1], output.shape[-1])
