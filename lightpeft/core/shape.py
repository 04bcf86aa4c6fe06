"""What a model is made of, as far as it can be cut: its linears, and whose rows are whose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

# Rows of a linear, `unit` at a time: how many such slots a run has, from units and groups.
_RUNS: dict[str, Callable[[int, int], int]] = {
    "units": lambda units, groups: units,
    "groups": lambda units, groups: groups,
    "interleaved": lambda units, groups: units + 2 * groups,
}


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """One linear of a block, unpruned, and which of its sides loses units.

    The side is a row of slots, `unit` rows (or columns) each, and a slot stays while what owns it
    stays. A KV group stays while one of its query heads does. Runs of slots, in order:

    - `units`: one slot per query head, or per neuron;
    - `groups`: one slot per KV group;
    - `interleaved`: for each KV group a slot for each of its query heads, one for keys, one for
      values.

    So a fused Q|K|V is units, groups, groups, and a fused gate|up is units, units.

    Attributes:
        inputs: columns of the weight, seen as (out, in).
        outputs: its rows.
        bias: whether it has one.
        block: path of the attention or feed-forward block whose units it carries.
        side: where the units lie: rows (`out`) or columns (`in`).
        unit: rows or columns of one slot: the head size, or 1 for a neuron.
        slots: runs of slots.
        sharing: query heads that share one key and value.
    """

    inputs: int
    outputs: int
    bias: bool
    block: str
    side: Literal["in", "out"]
    unit: int
    slots: tuple[str, ...] = ("units",)
    sharing: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(self.slots))  # JSON knows lists only
        if not self.slots or not set(self.slots) <= set(_RUNS):
            raise ValueError(f"slots must be of {', '.join(_RUNS)}, got {self.slots}")
        if self.unit < 1 or self.sharing < 1:
            raise ValueError(f"unit and sharing must be from 1, got {self.unit}, {self.sharing}")

    @property
    def groups(self) -> int:
        """KV groups of the block; its units where nothing is shared."""
        per_group = self._count(self.sharing, 1)
        return (self.outputs if self.side == "out" else self.inputs) // (self.unit * per_group)

    @property
    def units(self) -> int:
        """Query heads or neurons of the block."""
        return self.groups * self.sharing

    def keep(self, units: int, groups: int | None = None) -> tuple[int, int]:
        """Inputs and outputs when the block keeps `units` of its units.

        Args:
            units: query heads or neurons kept.
            groups: KV groups kept; None where whole groups go.
        """
        alive = -(-units // self.sharing) if groups is None else groups
        width = self._count(units, alive) * self.unit
        return (self.inputs, width) if self.side == "out" else (width, self.outputs)

    def _count(self, units: int, groups: int) -> int:
        return sum(_RUNS[run](units, groups) for run in self.slots)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What can be cut from a model, and what the rest of it weighs. Paths are in depth order.

    Attributes:
        model_type: as in the model's config.
        heads: attention block path -> query heads.
        neurons: feed-forward block path -> neurons.
        linears: path of each block linear -> its shape.
        others: parameters that no plan cuts: `embeddings`, `norms`, `head`, and `feed_forward`:
            experts that stay whole.
        per_head: attention block path -> parameters a head owns outside the linears.
        lenders: attention block path -> the block whose table of these it reads while no head of
            either stack is cut; each has its own afterwards.
        repeats: path of a module that runs several times in a row -> how often.
        products: weights outside the blocks that multiply: `embeddings` and `token` (a fresh task
            head) every token, `lm` (a pretrained head) every token, `row` one token a row.
        experts: attention block path -> weights of its layer's router and experts, as many of them
            as a token goes to, that multiply a token; where experts stay whole.
    """

    model_type: str
    heads: dict[str, int]
    neurons: dict[str, int]
    linears: dict[str, LinearShape]
    others: dict[str, int]
    per_head: dict[str, int] = field(default_factory=dict)
    lenders: dict[str, str] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    products: dict[str, int] = field(default_factory=dict)
    experts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def sharing(self) -> dict[str, int]:
        """Block path -> query heads that share one key and value; 1 for neurons."""
        return {linear.block: linear.sharing for linear in self.linears.values()}

    @cached_property
    def readers(self) -> dict[str, str]:
        """Block path -> path of the linear that reads its units: where a mask goes."""
        return {x.block: name for name, x in self.linears.items() if x.side == "in"}
