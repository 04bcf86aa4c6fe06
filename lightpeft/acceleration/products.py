"""The matrix products of LoRA layers, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


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


def compute(x: Tensor, operands: Operands) -> Tensor:
    """Return ``x W^T + c + x A^T B^T`` without dropout, in 3 products and 5 backwards."""
    weight, bias, a, b, _, _ = operands
    output: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
        x.to(weight.dtype), weight, bias, a, b
    )
    # Not in the function: what is a view there can't be changed in place.
    return output.view(*x.shape[:-1], output.shape[-1])


def compute_together(x: Tensor, layers: Sequence[Operands]) -> tuple[Tensor, ...]:
    """Return `compute` of n layers for the same input, in 1 + 2n products and 2 + 3n backwards.

    One product forwards and one backwards has all A, and the gradient of the input is summed in
    products, for which autograd takes n - 1 more kernels.
    """
    bases = [(layer.weight, layer.bias) for layer in layers]
    adapters = (*(layer.a for layer in layers), *(layer.b for layer in layers))
    outputs: tuple[Tensor, ...] = _ProductsTogether.apply(  # type: ignore[no-untyped-call]
        bases, x.to(layers[0].weight.dtype), *adapters
    )
    return tuple(output.view(*x.shape[:-1], output.shape[-1]) for output in outputs)


def compute_in_steps(x: Tensor, operands: Operands) -> Tensor:
    """Return ``x W^T + c + d A^T B^T``, where ``d`` is ``x`` after dropout, in operators of torch.

    For dropout, and for a compiler, which fuses them with others. ``d A^T`` is computed
    transposed, and on a CPU B is copied into its transpose, so that no gradient is a product with
    a narrow result, for which MKL takes three to five times as long as for the transposed product.
    """
    weight, bias, a, b, _, dropout = operands
    rows = x.to(weight.dtype).reshape(-1, x.shape[-1])
    output = linear(rows, weight, bias)
    read = rows if dropout is None else dropout(rows)
    b_transposed = b.t().contiguous() if _is_slow_if_narrow(b) else b.t()
    output.addmm_((a @ read.t()).t(), b_transposed)
    return output.view(*x.shape[:-1], output.shape[-1])


class _Products(torch.autograd.Function):
    """The products of `compute`; all sums are arguments of products."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        """Return the output, shape ``(rows, out)``."""
        rows = x.reshape(-1, x.shape[-1])
        inner = torch.mm(a, rows.t())  # (rank, rows)
        ctx.set_materialize_grads(False)
        ctx.shape = x.shape
        ctx.save_for_backward(rows, inner, weight, a, b)
        return linear(rows, weight, bias).addmm_(inner.t(), b.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, A and B; None where there is none."""
        if gradient is None:
            return (None,) * 5
        rows, inner, weight, a, b = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b = ctx.needs_input_grad
        of_inner = torch.mm(b.t(), gradient.t())
        of_x = (
            torch.mm(gradient, weight).addmm_(of_inner.t(), a).view(ctx.shape) if needs_x else None
        )
        of_a = torch.mm(of_inner, rows) if needs_a else None
        of_b = _multiply_for_b(gradient, inner) if needs_b else None
        return of_x, None, None, of_a, of_b


class _ProductsTogether(torch.autograd.Function):
    """The products of `compute_together`, whose sums are arguments of products."""

    @staticmethod
    def forward(
        ctx: Any, bases: Sequence[tuple[Tensor, Tensor | None]], x: Tensor, *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs of all layers; `adapters` are A of each layer, then B of each."""
        a, b = adapters[: len(bases)], adapters[len(bases) :]
        rows, stacked = x.reshape(-1, x.shape[-1]), _stack(a)
        inner = torch.mm(stacked, rows.t())  # (ranks of all layers, rows)
        ctx.shape, ctx.ranks = x.shape, [part.shape[0] for part in a]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rows, inner, stacked, *b, *(weight for weight, _ in bases))
        outputs = []
        for (weight, bias), layer_b, part in zip(
            bases, b, inner.split_with_sizes(ctx.ranks), strict=True
        ):
            outputs.append(linear(rows, weight, bias).addmm_(part.t(), layer_b.t()))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, of each A and of each B; None where there is none."""
        n = len(gradients)
        if all(gradient is None for gradient in gradients):
            return (None,) * (2 + 2 * n)
        rows, inner, stacked, *others = ctx.saved_tensors
        b, weights = others[:n], others[n:]
        _, needs_x, *needs = ctx.needs_input_grad
        of_inner = torch.empty_like(inner)
        of_parts = of_inner.split_with_sizes(ctx.ranks)
        of_b: list[Tensor | None] = [None] * n
        for i, (gradient, part) in enumerate(
            zip(gradients, inner.split_with_sizes(ctx.ranks), strict=True)
        ):
            if gradient is None:
                of_parts[i].zero_()
                continue
            torch.mm(b[i].t(), gradient.t(), out=of_parts[i])
            if needs[n + i]:
                of_b[i] = _multiply_for_b(gradient, part)
        of_x = _multiply_for_x(gradients, weights, of_inner, stacked) if needs_x else None
        of_a: list[Tensor | None] = [None] * n
        if any(needs[:n]):
            parts = torch.mm(of_inner, rows).split_with_sizes(ctx.ranks)
            of_a = [None if g is None else part for g, part in zip(gradients, parts, strict=True)]
        return None, of_x if of_x is None else of_x.view(ctx.shape), *of_a, *of_b


def _multiply_for_x(
    gradients: Sequence[Tensor | None], weights: Sequence[Tensor], of_inner: Tensor, stacked: Tensor
) -> Tensor:
    """Return the gradient of the input, ``(rows, in)``; of the outputs, not all are None."""
    pairs = zip(gradients, weights, strict=True)
    (first, weight), *others = [(g, weight) for g, weight in pairs if g is not None]
    of_x = torch.mm(first, weight)
    for gradient, weight in others:
        of_x.addmm_(gradient, weight)
    return of_x.addmm_(of_inner.t(), stacked)


def _multiply_for_b(gradient: Tensor, inner: Tensor) -> Tensor:
    """Return the gradient of B, ``(out, rank)``, of an output's, ``(rows, out)``.

    On a CPU not as a product with a narrow result; see `compute_in_steps`. With the strides of B,
    of which DistributedDataParallel warns otherwise; `contiguous` keeps others of a single column.
    """
    if _is_slow_if_narrow(gradient):
        return torch.mm(inner, gradient).t().clone(memory_format=torch.contiguous_format)
    return torch.mm(gradient.t(), inner.t())


def _is_slow_if_narrow(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _stack(parts: tuple[Tensor, ...]) -> Tensor:
    """Return matrices below each other: a view if they lie so, as `fold_adapters` lays them."""
    if not all(_is_followed(x, y) for x, y in pairwise(parts)):
        return torch.cat(parts)
    rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
    return parts[0].as_strided((rows, columns), (columns, 1))


def _is_followed(x: Tensor, y: Tensor) -> bool:
    """Return whether a contiguous matrix begins where another ends in the same memory."""
    is_contiguous = x.is_contiguous() and y.is_contiguous()
    is_next = y.storage_offset() == x.storage_offset() + x.numel()
    return is_contiguous and is_next and y.untyped_storage()._cdata == x.untyped_storage()._cdata
