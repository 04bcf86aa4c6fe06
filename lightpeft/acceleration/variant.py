"""Subclasses of the classes of a model's modules, made when they are needed."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn


class Variant(nn.Module):
    """Base of classes that change how a module computes, and nothing else of it.

    A module that becomes one gets a class derived from the variant and from its own, with the
    name of its own. torch.compile compiles all modules of a class once; functions that are
    attributes of modules would have each module compiled by itself.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy: pickle finds no class that was derived."""
        return _make, type(self).__bases__, self.__dict__


def make_variant(module: nn.Module, variant: type[Variant]) -> None:
    """Let a module compute as a variant of its class."""
    classes: tuple[Any, Any] = variant, type(module)
    module.__class__ = _derive(*classes)


def restore_class(module: Variant) -> None:
    """Let a module compute as before `make_variant`."""
    module.__class__ = type(module).__bases__[1]


@functools.cache
def _derive(variant: Any, stock: Any) -> Any:
    return type(stock.__name__, (variant, stock), {})


def _make(variant: Any, stock: Any) -> Variant:
    derived = _derive(variant, stock)
    copy: Variant = derived.__new__(derived)
    return copy
