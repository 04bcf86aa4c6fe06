"""LoRA layers of one module that read the same input: query, key and value, or gate and up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightpeft.acceleration.layer import AcceleratedLinear
from lightpeft.acceleration.obstacles import is_hooked
from lightpeft.acceleration.products import Operands, compute_together
from lightpeft.acceleration.variant import Variant, make_variant
from lightpeft.modeling.families import list_siblings


class Siblings:
    """Computes layers together when the first of them is called, while their module runs.

    A layer that is then called with the same tensor gets the output that waits for it. One that is
    not, or that can't be computed with the others (of another state, with dropout or a hook), is
    computed by itself. What was computed in vain is dropped when the module has run.

    Attributes:
        layers: children of a module.
    """

    def __init__(self, layers: Sequence[AcceleratedLinear]) -> None:
        self.layers = layers
        self._awaits_first = False
        # Empty but while the module runs.
        self._x: Tensor | None = None
        self._outputs: dict[nn.Module, Tensor] = {}
        for layer in layers:
            layer.__dict__["siblings"] = self

    def open(self) -> None:
        """Compute the layers together at the next call."""
        self._awaits_first = True

    def close(self) -> None:
        """Drop what was not taken, and compute each layer by itself."""
        self._awaits_first = False
        self._clear()

    def take(self, layer: AcceleratedLinear, x: Tensor) -> Tensor | None:
        """Return the output of one of the layers; None if it is to be computed by itself."""
        if self._awaits_first:
            self._awaits_first = False
            self._compute(x)
        if x is not self._x:
            return None
        output = self._outputs.pop(layer, None)
        if not self._outputs:
            self._clear()
        return output

    def _compute(self, x: Tensor) -> None:
        operands: dict[nn.Module, Operands] = {}
        for layer in self.layers:
            found = None if is_hooked(layer) else layer.find_operands(x)
            if found and found.dropout is None:
                operands[layer] = found
        if len(operands) > 1:
            outputs = compute_together(x, list(operands.values()))
            self._x, self._outputs = x, dict(zip(operands, outputs, strict=True))

    def _clear(self) -> None:
        self._x = None
        self._outputs.clear()


class SiblingsParent(Variant):
    """A module whose layers are computed together where they read the same input.

    Attributes:
        siblings: its groups of such layers.
    """

    siblings: list[Siblings]

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return what the module returns."""
        if torch.compiler.is_compiling():  # it fuses nothing with functions of our own
            return super().forward(*arguments, **options)
        for siblings in self.siblings:
            siblings.open()
        try:
            return super().forward(*arguments, **options)
        finally:
            for siblings in self.siblings:
                siblings.close()


def group_siblings(model: nn.Module) -> None:
    """Let the accelerated layers of a model that read the same input be computed together."""
    for path, module in list(model.named_modules()):
        found = []
        for names in list_siblings(path):
            children = (module._modules.get(name) for name in names)
            layers = [child for child in children if isinstance(child, AcceleratedLinear)]
            if len(layers) > 1 and len({layer.in_features for layer in layers}) == 1:
                found.append(Siblings(layers))
        if found:
            module.__dict__["siblings"] = found
            make_variant(module, SiblingsParent)
