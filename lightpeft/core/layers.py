"""Stacks of layers of which whole ones are pruned: what remains, and under which numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

from lightpeft.core.block_shape import AttentionBlock, Block, Size, find_layer

if TYPE_CHECKING:
    from lightpeft.core.shape import ModelShape

KeptLayers = Mapping[str, Sequence[int]]  # path of a stack -> numbers of its layers


@dataclass(frozen=True, kw_only=True)
class LayerStack:
    """Layers that run one after the other.

    Attributes:
        path: of the list of layers in the model.
        layers: how many there are.
        prunable: the numbers of those that may be pruned, all with weights of the same shapes.
        reason: why the others may not; empty if there are none.
        non_block_parameters: as in `ModelShape`, of one prunable layer.
        matmul_weights: likewise.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    path: str
    layers: Size
    prunable: tuple[Size, ...] = ()
    reason: str = ""
    non_block_parameters: dict[str, Size] = field(default_factory=dict)
    matmul_weights: dict[str, Size] = field(default_factory=dict)


def find_new_path(path: str, kept: KeptLayers) -> str | None:
    """Return what a module's path is after layers are pruned; None if its layer is.

    >>> find_new_path("model.layers.5.mlp", {"model.layers": (0, 2, 5)})
    'model.layers.2.mlp'
    """
    layer = find_layer(path)
    stack, _, number = (layer or "").rpartition(".")
    if layer is None or stack not in kept:
        return path
    if int(number) not in kept[stack]:
        return None
    return f"{stack}.{kept[stack].index(int(number))}{path.removeprefix(layer)}"


def drop_layers(shape: ModelShape, kept: KeptLayers) -> ModelShape:
    """Return the shape of the model that has only some of its layers left, numbered anew.

    Args:
        shape: of the unpruned model.
        kept: stacks that lose layers, with those that they keep.
    """
    outside, matmul = dict(shape.non_block_parameters), dict(shape.matmul_weights)
    for stack in shape.stacks:
        gone = stack.layers - len(kept.get(stack.path, range(stack.layers)))
        for total, of_layer in (
            (outside, stack.non_block_parameters),
            (matmul, stack.matmul_weights),
        ):
            for part, parameters in of_layer.items():
                total[part] -= gone * parameters
    return replace(
        shape,
        blocks=tuple(
            _rename_block(block, kept) for block in shape.blocks if find_new_path(block.path, kept)
        ),
        non_block_parameters=outside,
        matmul_weights=matmul,
        stacks=(),
    )


def _rename_block(block: Block, kept: KeptLayers) -> Block:
    """Return a block of a layer that stays, under its new path."""

    def rename(path: str) -> str:
        return find_new_path(path, kept) or ""

    renamed = replace(
        block,
        path=rename(block.path),
        linears={rename(path): linear for path, linear in block.linears.items()},
    )
    if not isinstance(renamed, AttentionBlock):
        return renamed
    return replace(
        renamed,
        per_head_weights=tuple(map(rename, renamed.per_head_weights)),
        position_bias_owner=rename(renamed.position_bias_owner),
    )
