"""The prunable structure of a model: its attention and feed-forward blocks and their linears."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

# Slots in a segment of a linear, from its block's units and KV groups.
_SLOTS: dict[str, Callable[[int, int], int]] = {
    "units": lambda units, groups: units,
    "groups": lambda units, groups: groups,
    "interleaved": lambda units, groups: units + 2 * groups,
}


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

    inputs: int
    outputs: int
    bias: bool
    pruned_dim: Literal["in", "out"]
    unit_size: int
    segments: tuple[str, ...] = ("units",)
    heads_per_kv_group: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))  # JSON has lists only
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
        return size // (self.unit_size * self._num_slots(self.heads_per_kv_group, 1))

    @property
    def units(self) -> int:
        """Query heads or neurons of the block."""
        return self.num_kv_groups * self.heads_per_kv_group

    def pruned_shape(self, units: int, kv_groups: int | None = None) -> tuple[int, int]:
        """Return inputs and outputs when the block keeps so many units.

        Args:
            units: query heads or neurons kept.
            kv_groups: KV groups kept; None where only whole groups are pruned.
        """
        if kv_groups is None:
            kv_groups = -(-units // self.heads_per_kv_group)
        size = self._num_slots(units, kv_groups) * self.unit_size
        return (self.inputs, size) if self.pruned_dim == "out" else (size, self.outputs)

    def _num_slots(self, units: int, kv_groups: int) -> int:
        return sum(_SLOTS[segment](units, kv_groups) for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What attention and feed-forward blocks have in common.

    Attributes:
        path: of the block's module in the model.
        units: query heads, or neurons.
        linears: path -> linear whose rows or columns are units, in execution order.
    """

    kind: ClassVar[str]
    path: str
    units: int
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

    kind: ClassVar[str] = "attention"
    attention_core: str = ""
    head_count_rule: str = ""
    per_head_weights: tuple[str, ...] = ()
    parameters_per_head: int = 0
    position_bias_owner: str = ""
    moe_matmul_weights: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "per_head_weights", tuple(self.per_head_weights))


@dataclass(frozen=True, kw_only=True)
class FeedForwardBlock(_Block):
    """A dense feed-forward block; `units` are its neurons."""

    kind: ClassVar[str] = "feed_forward"


Block = AttentionBlock | FeedForwardBlock
_KINDS: dict[str, type[Block]] = {
    AttentionBlock.kind: AttentionBlock,
    FeedForwardBlock.kind: FeedForwardBlock,
}


@dataclass(frozen=True, kw_only=True)
class UnitCounts:
    """How many units the blocks of a model have, and what rank its adapters.

    Attributes:
        units: block path -> query heads or neurons.
        ranks: path of a linear -> rank of its LoRA; 0 or absent where it has none.
        kv_groups: attention block path -> KV groups; absent where only whole groups were pruned.
    """

    units: Mapping[str, int]
    ranks: Mapping[str, int] = field(default_factory=dict)
    kv_groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelShape:
    """What can be pruned of a model, and how many parameters the rest has.

    Attributes:
        model_type: as in the model's config.
        blocks: in execution order.
        non_block_parameters: parameters that no plan prunes: `embeddings`, `norms`, `head`, and
            `feed_forward`: experts and routers.
        matmul_weights: weights outside the blocks that are multiplied: `embeddings` and `token` (a
            new task head) for every token, `lm` (a pretrained head) for every token, `row` for one
            token per row.
        layer_repeats: path of a module that runs several times in a row -> how often (ALBERT).
    """

    model_type: str
    blocks: tuple[Block, ...]
    non_block_parameters: dict[str, int]
    matmul_weights: dict[str, int] = field(default_factory=dict)
    layer_repeats: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        paths = Counter(block.path for block in self.blocks)
        paths.update(path for block in self.blocks for path in block.linears)
        if twice := [path for path, count in paths.items() if count > 1]:
            raise ValueError(f"{twice[0]} is listed twice")

    def __repr__(self) -> str:
        return (
            f"ModelShape({self.model_type}: {len(self.attention_blocks)} attention blocks with "
            f"{sum(self.heads.values()):,} heads, {len(self.neurons)} feed-forward blocks with "
            f"{sum(self.neurons.values()):,} neurons, {len(self.linears)} linears)"
        )

    @cached_property
    def attention_blocks(self) -> tuple[AttentionBlock, ...]:
        """The attention blocks, in execution order."""
        return tuple(block for block in self.blocks if isinstance(block, AttentionBlock))

    @cached_property
    def heads(self) -> dict[str, int]:
        """Attention block path -> query heads."""
        return {block.path: block.units for block in self.attention_blocks}

    @cached_property
    def neurons(self) -> dict[str, int]:
        """Feed-forward block path -> neurons."""
        return {b.path: b.units for b in self.blocks if isinstance(b, FeedForwardBlock)}

    @cached_property
    def linears(self) -> dict[str, LinearShape]:
        """Path -> linear, of all blocks in execution order."""
        return {path: linear for block in self.blocks for path, linear in block.linears.items()}

    @cached_property
    def block_of(self) -> dict[str, Block]:
        """Path of a linear -> its block."""
        return {path: block for block in self.blocks for path in block.linears}

    @cached_property
    def num_moe_layers(self) -> int:
        """Layers whose experts keep all weights."""
        return sum(block.moe_matmul_weights > 0 for block in self.attention_blocks)

    def unpruned_counts(self, ranks: Mapping[str, int] | None = None) -> UnitCounts:
        """Return the counts of the unpruned model, with LoRA of these ranks."""
        return UnitCounts(units=self.heads | self.neurons, ranks=ranks or {})

    def with_linears(self, paths: Set[str]) -> ModelShape:
        """Return the shape without the linears that are not in `paths`."""
        blocks = (
            replace(block, linears={p: x for p, x in block.linears.items() if p in paths})
            for block in self.blocks
            if paths & block.linears.keys()
        )
        return replace(self, blocks=tuple(blocks))

    def count_parameters(self, counts: UnitCounts) -> dict[str, int]:
        """Return the parameters of a model with so many units, by part.

        A block that several layers share counts once. Position biases that T5's layers share count
        once while no head of their stack is pruned, then once per layer.

        Returns:
            Parameters of `embeddings`, `attention`, `feed_forward`, `adapter`, `norms`, `head`.
        """
        parts = Counter(self.non_block_parameters)
        pruned_stacks = {
            block.position_bias_owner
            for block in self.attention_blocks
            if counts.units[block.path] < block.units
        }
        for block in self.blocks:
            units, kv_groups = counts.units[block.path], counts.kv_groups.get(block.path)
            for path, linear in block.linears.items():
                inputs, outputs = linear.pruned_shape(units, kv_groups)
                parts[block.kind] += (inputs + linear.bias) * outputs
                parts["adapter"] += counts.ranks.get(path, 0) * (inputs + outputs)
            if isinstance(block, AttentionBlock):
                owner = block.position_bias_owner
                if owner in ("", block.path) or owner in pruned_stacks:
                    parts["attention"] += block.parameters_per_head * units
        return parts

    def to_json(self) -> dict[str, Any]:
        """Return the shape as JSON values."""
        return asdict(self) | {"blocks": [{"kind": x.kind} | asdict(x) for x in self.blocks]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelShape:
        """Read what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: it contradicts itself.
        """
        blocks = []
        for raw in value["blocks"]:
            linears = {path: LinearShape(**linear) for path, linear in raw["linears"].items()}
            fields = {name: x for name, x in raw.items() if name != "kind"}
            blocks.append(_KINDS[raw["kind"]](**{**fields, "linears": linears}))
        return cls(**{**value, "blocks": tuple(blocks)})


def layer_of(path: str) -> str | None:
    """Return the numbered layer that a module is in: its path up to the first number."""
    match = re.match(r"(.*?\.\d+)(?:\.|$)", path)
    return match[1] if match else None
