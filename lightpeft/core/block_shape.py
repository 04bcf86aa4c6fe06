"""The shapes of a model's blocks: their units, and the linears whose rows or columns are units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

# A number of units, weights or parameters, in a model or in a file.
Size = Annotated[int, Field(ge=0, lt=2**63)]
# Slots in a segment of a linear: for each unit of its block, and for each KV group.
_SLOTS = {"units": (1, 0), "groups": (0, 1), "interleaved": (1, 2)}


# The `head_count_rule` of an attention block whose heads can't be pruned: they count as one.
KEPT_WHOLE = "whole"


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """One linear of a block, unpruned, and how its pruned dimension is divided among the units.

    The dimension consists of slots of `unit_size` rows (or columns). A slot is kept with the unit
    that owns it; a KV group is kept while one of its query heads is. Slots are in segments:

    - `units`: one slot per query head, or per neuron;
    - `groups`: one slot per KV group;
    - `interleaved`: for each KV group a slot for each of its query heads, one for its key and one
      for its value.

    So a fused Q|K|V is units, groups, groups, and a fused gate|up is units, units.

    Attributes:
        inputs: columns of the weight, seen as (out, in).
        outputs: rows of the weight.
        bias: whether it has a bias.
        pruned_dim: where the units are: rows (`out`) or columns (`in`).
        unit_size: rows or columns of one slot: the head size, or 1 for a neuron.
        segments: the segments of the pruned dimension, in order.
        heads_per_kv_group: query heads that share one key and value; 1 for neurons.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    inputs: Size
    outputs: Size
    bias: bool
    pruned_dim: Literal["in", "out"]
    unit_size: Size
    segments: tuple[str, ...] = ("units",)
    heads_per_kv_group: Size = 1

    def __post_init__(self) -> None:
        if not self.segments or not set(self.segments) <= set(_SLOTS):
            raise ValueError(f"segments must be of {', '.join(_SLOTS)}, got {self.segments}")
        if self.unit_size < 1 or self.heads_per_kv_group < 1:
            raise ValueError(
                f"unit_size and heads_per_kv_group must be integers >= 1, "
                f"got {self.unit_size}, {self.heads_per_kv_group}"
            )

    @property
    def num_kv_groups(self) -> int:
        """KV groups of the block; its units where nothing is shared."""
        size = self.outputs if self.pruned_dim == "out" else self.inputs
        return size // (self.unit_size * self._count_slots(self.heads_per_kv_group, 1))

    @property
    def units(self) -> int:
        """Query heads or neurons of the block."""
        return self.num_kv_groups * self.heads_per_kv_group

    def compute_pruned_shape(self, units: int, kv_groups: int | None = None) -> tuple[int, int]:
        """Return inputs and outputs when the block keeps so many units.

        Args:
            units: query heads or neurons kept.
            kv_groups: KV groups kept; None where only whole groups are pruned.
        """
        if kv_groups is None:
            kv_groups = -(-units // self.heads_per_kv_group)
        size = self._count_slots(units, kv_groups) * self.unit_size
        return (self.inputs, size) if self.pruned_dim == "out" else (size, self.outputs)

    def _count_slots(self, units: int, kv_groups: int) -> int:
        slots = [_SLOTS[segment] for segment in self.segments]
        return sum(units * per_unit + kv_groups * per_group for per_unit, per_group in slots)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What attention and feed-forward blocks have in common.

    Attributes:
        kind: for plan.json, `attention` or `feed_forward`.
        path: of the block's module in the model.
        units: query heads, or neurons.
        linears: path -> linear whose rows or columns are units, in execution order.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    kind: str
    path: str
    units: Size
    linears: dict[str, LinearShape]

    def __post_init__(self) -> None:
        for path, linear in self.linears.items():
            if linear.units != self.units:
                raise ValueError(f"{path} has {linear.units} units, {self.path} {self.units}")
        if [linear.pruned_dim for linear in self.linears.values()].count("in") != 1:
            raise ValueError(f"{self.path} must have one linear that reads its units")

    @cached_property
    def output_projection(self) -> str:
        """Path of the linear whose input is the units; a mask is applied before it."""
        return next(path for path, x in self.linears.items() if x.pruned_dim == "in")

    @property
    def unit_size(self) -> int:
        """Head size, or 1 for neurons."""
        return self.linears[self.output_projection].unit_size

    @property
    def heads_per_kv_group(self) -> int:
        """Query heads that share one key and value; 1 for neurons."""
        return self.linears[self.output_projection].heads_per_kv_group


@dataclass(frozen=True, kw_only=True)
class AttentionBlock(_Block):
    """An attention block; `units` are its query heads.

    Attributes:
        attention_core: submodule that holds the head counts; empty: the block itself.
        head_count_rule: what else depends on the number of heads, see `Family`.
        per_head_weights: paths of parameters outside the linears with a row per query head.
        parameters_per_head: parameters of one head outside the linears.
        position_bias_owner: path of the block whose position biases this one uses while no head
            of either is pruned (T5); the block itself if it computes them.
        moe_matmul_weights: weights of the layer's router, and of as many experts as a token is
            routed to, that multiply a token; 0 in layers without unpruned experts.
    """

    kind: Literal["attention"] = "attention"
    attention_core: str = ""
    head_count_rule: str = ""
    per_head_weights: tuple[str, ...] = ()
    parameters_per_head: Size = 0
    position_bias_owner: str = ""
    moe_matmul_weights: Size = 0


@dataclass(frozen=True, kw_only=True)
class FeedForwardBlock(_Block):
    """A dense feed-forward block; `units` are its neurons."""

    kind: Literal["feed_forward"] = "feed_forward"


Block = AttentionBlock | FeedForwardBlock


def find_layer(path: str) -> str | None:
    """Return the numbered layer that a module is in: its path up to the first number."""
    match = re.match(r"(.*?\.\d+)(?:\.|$)", path)
    return match[1] if match else None


def find_stack(path: str) -> str:
    """Return the stack of layers that a block is in: its path up to the first number."""
    return str(find_layer(path)).rpartition(".")[0]
