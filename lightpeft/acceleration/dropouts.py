"""Dropout from fewer random bits, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightpeft.acceleration.variant import Variant, make_variant, restore_class

_VALUES = 2**16  # that the random bits of an element can take


class FewBitDropout(Variant):
    """Computes dropout on a CPU from 16 random bits for each element.

    torch draws 64 bits for each, one after the other on one core, and keeps the mask as floats.
    The probability is rounded to 16 bits, and what is kept is scaled by it, so that the mean is
    that of the input.
    """

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return the output; as torch computes it on a GPU, compiled, or out of training."""
        if self._can_take(*arguments) and not options:
            threshold = round(float(self.p) * _VALUES)  # type: ignore[arg-type]
            if 0 < threshold < _VALUES:
                return _Dropout.apply(arguments[0], threshold)  # type: ignore[no-untyped-call]
        return super().forward(*arguments, **options)

    def _can_take(self, *arguments: Any) -> bool:
        if torch.compiler.is_compiling() or not self.training or self.inplace:
            return False
        x = arguments[0] if len(arguments) == 1 else None
        return type(x) is Tensor and x.device.type == "cpu" and x.is_floating_point()


class _Dropout(torch.autograd.Function):
    """Keeps a byte for each element for the backward pass; torch keeps a float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        is_kept = _draw(x) >= threshold - _VALUES // 2
        ctx.scale = 1 / (1 - threshold / _VALUES)
        ctx.save_for_backward(is_kept)
        return (x * is_kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (is_kept,) = ctx.saved_tensors
        return (gradients[0] * is_kept).mul_(ctx.scale), None


def _draw(x: Tensor) -> Tensor:
    """Return random 16-bit integers in the shape of a tensor: four from each draw of 64 bits."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    words.random_(torch.iinfo(torch.int64).min, None)
    return words.view(torch.int16)[: x.numel()].view(x.shape)


def shorten_draws(model: nn.Module) -> list[str]:
    """Let the dropouts of a model draw fewer random bits; subclasses of torch's stay as they are.

    Returns:
        Their paths.
    """
    found = {path: module for path, module in model.named_modules() if type(module) is nn.Dropout}
    for module in found.values():
        make_variant(module, FewBitDropout)
    return list(found)


@contextmanager
def short_draws(model: nn.Module) -> Iterator[None]:
    """Let the dropouts of a model draw fewer random bits, within a ``with`` statement."""
    shorten_draws(model)
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FewBitDropout):
                restore_class(module)
