"""Scale and cast the adapters of many layers at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightpeft.acceleration.layer import AcceleratedLinear, Operands, read_operands
from lightpeft.acceleration.obstacles import find_obstacle


def fold_adapters(layers: Iterable[AcceleratedLinear]) -> dict[nn.Module, Operands]:
    """Return the operands of layers, LoRA B scaled, and A and B in the dtype of the base layer.

    For all layers together, adapters of another dtype than the base take three kernels (one for
    lists of tensors, which is a few more on a GPU), and three in the backward pass, which gives
    the gradients in the dtype of the adapters; those of the same dtype take one. Layers that have
    an obstacle are left out.
    """
    operands: dict[nn.Module, Operands] = {}
    groups: dict[tuple[Any, ...], list[nn.Module]] = defaultdict(list)
    for layer in layers:
        if find_obstacle(layer) is None:
            read = operands[layer] = read_operands(layer)
            groups[read.a.device, read.a.dtype, read.weight.dtype].append(layer)
    for (_, adapter_dtype, dtype), members in groups.items():
        parts = [operands[member] for member in members]
        scalings = [read.scaling for read in parts]
        a: Sequence[Tensor] = [read.a for read in parts]
        b: Sequence[Tensor] = [read.b for read in parts]
        if adapter_dtype == dtype:
            b = _fold(b, scalings, dtype)
        else:
            folded = _fold([*a, *b], [1.0] * len(a) + scalings, dtype)
            a, b = folded[: len(a)], folded[len(a) :]
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
        """Return `scalings[i] * weights[i]` in another dtype, then in one block of memory."""
        ctx.set_materialize_grads(False)
        ctx.scalings, ctx.dtype = scalings, weights[0].dtype
        folded = _cast(torch._foreach_mul(weights, scalings), dtype)
        # Layers below the lowest trained adapter keep no graph, as without this function.
        pairs = zip(folded, ctx.needs_input_grad[2:], strict=True)
        ctx.mark_non_differentiable(*(tensor for tensor, is_trained in pairs if not is_trained))
        return folded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weights in their dtype; None where there is none."""
        needed = [gradient for gradient in gradients if gradient is not None]
        if not needed:
            return None, None, *gradients
        pairs = zip(ctx.scalings, gradients, strict=True)
        scalings = [scaling for scaling, gradient in pairs if gradient is not None]
        scaled = iter(torch._foreach_mul(_cast(needed, ctx.dtype), scalings))
        of_weights = (None if gradient is None else next(scaled) for gradient in gradients)
        return None, None, *of_weights


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return tensors in a dtype; if it is another, by a copy of all in one block."""
    if tensors[0].dtype == dtype:
        return tuple(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(dtype)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return tuple(part.view(x.shape) for part, x in zip(parts, tensors, strict=True))
