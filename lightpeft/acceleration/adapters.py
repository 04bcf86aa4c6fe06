"""Scale and cast the adapters of many layers at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightpeft.acceleration.layer import AcceleratedLinear, read_operands
from lightpeft.acceleration.obstacles import find_obstacle
from lightpeft.acceleration.products import Operands


def fold_adapters(layers: Iterable[AcceleratedLinear]) -> dict[nn.Module, Operands]:
    """Return the operands of layers, LoRA B scaled, and A and B in the dtype of the base layer.

    For all layers together, adapters of another dtype than the base take three kernels (one for
    lists of tensors, which is a few more on a GPU), and three in the backward pass, which gives
    the gradients in the dtype of the adapters; those of the same dtype take two and one. All A lie
    one after another, so that those of several layers are one matrix. Layers that have an
    obstacle are left out.
    """
    operands: dict[nn.Module, Operands] = {}
    groups: dict[tuple[Any, ...], list[nn.Module]] = defaultdict(list)
    for layer in layers:
        if find_obstacle(layer) is None:
            read = operands[layer] = read_operands(layer)
            groups[read.a.device, read.a.dtype, read.weight.dtype].append(layer)
    for (_, _, dtype), members in groups.items():
        parts = [operands[member] for member in members]
        scalings = [1.0] * len(parts) + [read.scaling for read in parts]
        folded = _fold([*(read.a for read in parts), *(read.b for read in parts)], scalings, dtype)
        a, b = folded[: len(parts)], folded[len(parts) :]
        for member, read, layer_a, layer_b in zip(members, parts, a, b, strict=True):
            operands[member] = read._replace(a=layer_a, b=layer_b, scaling=1.0)
    return operands


def _fold(
    weights: Sequence[Tensor], scalings: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return `scalings[i] * weights[i]` in another dtype."""
    folded: tuple[Tensor, ...] = _FoldFunction.apply(scalings, dtype, *weights)  # type: ignore[no-untyped-call]
    return folded


class _FoldFunction(torch.autograd.Function):
    """Scale tensors of one dtype and cast them, and their gradients the other way.

    A function of its own because cat and split would each take autograd a node per weight.
    """

    @staticmethod
    def forward(
        ctx: Any, scalings: Sequence[float], dtype: torch.dtype, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Return `scalings[i] * weights[i]` in another dtype, in one block of memory."""
        ctx.set_materialize_grads(False)
        ctx.scalings, ctx.dtype = scalings, weights[0].dtype
        folded = _copy(torch._foreach_mul(weights, scalings), dtype)
        # Layers below the lowest trained adapter keep no graph, as without this function.
        pairs = zip(folded, ctx.needs_input_grad[2:], strict=True)
        ctx.mark_non_differentiable(*(tensor for tensor, is_trained in pairs if not is_trained))
        return tuple(folded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weights in their dtype; None where there is none."""
        needed = [gradient for gradient in gradients if gradient is not None]
        if not needed:
            return None, None, *gradients
        pairs = zip(ctx.scalings, gradients, strict=True)
        scalings = [scaling for scaling, gradient in pairs if gradient is not None]
        if needed[0].dtype != ctx.dtype:
            needed = _copy(needed, ctx.dtype)
        scaled = iter(torch._foreach_mul(needed, scalings))
        of_weights = (None if gradient is None else next(scaled) for gradient in gradients)
        return None, None, *of_weights


def _copy(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return copies of tensors in a dtype, one after another in one block."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(dtype)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]
