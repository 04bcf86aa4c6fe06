"""The prunable structure of a model: its blocks, and what it has outside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from lightpeft.core.adapter_layout import count_adapter_parameters
from lightpeft.core.block_shape import AttentionBlock, Block, FeedForwardBlock, LinearShape, Size
from lightpeft.core.layers import LayerStack
from lightpeft.core.names import LORA


@dataclass(frozen=True, kw_only=True)
class UnitCounts:
    """How many units the blocks of a model have, and what rank its adapters.

    Attributes:
        units: block path -> query heads or neurons.
        ranks: path of a linear -> rank of its PEFT module; 0 or absent where it has none.
        kv_groups: attention block path -> KV groups; absent where only whole groups were pruned.
        peft_type: of the adapters.
    """

    units: Mapping[str, int]
    ranks: Mapping[str, int] = field(default_factory=dict)
    kv_groups: Mapping[str, int] = field(default_factory=dict)
    peft_type: str = LORA


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
        stacks: the lists of layers that the blocks are in.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    model_type: str
    blocks: tuple[Annotated[Block, Field(discriminator="kind")], ...]
    non_block_parameters: dict[str, Size]
    matmul_weights: dict[str, Size] = field(default_factory=dict)
    layer_repeats: dict[str, Size] = field(default_factory=dict)
    stacks: tuple[LayerStack, ...] = ()

    def __post_init__(self) -> None:
        paths = Counter(block.path for block in self.blocks)
        paths.update(path for block in self.blocks for path in block.linears)
        if twice := [path for path, count in paths.items() if count > 1]:
            raise ValueError(f"{twice[0]} is listed twice")

    def __repr__(self) -> str:
        attention, feed_forward = (
            f"{len(units)} {kind} block{'s' * (len(units) != 1)} with {sum(units.values()):,}"
            for kind, units in (("attention", self.heads), ("feed-forward", self.neurons))
        )
        return f"ModelShape({self.model_type}: {attention} heads, {feed_forward} neurons)"

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

    def count_unpruned(
        self, ranks: Mapping[str, int] | None = None, *, peft_type: str = LORA
    ) -> UnitCounts:
        """Return the counts of the unpruned model, with PEFT modules of these ranks."""
        return UnitCounts(units=self.heads | self.neurons, ranks=ranks or {}, peft_type=peft_type)

    def select_linears(self, paths: Set[str]) -> ModelShape:
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
        parameters = Counter(self.non_block_parameters)
        pruned_stacks = {
            block.position_bias_owner
            for block in self.attention_blocks
            if counts.units[block.path] < block.units
        }
        for block in self.blocks:
            units, kv_groups = counts.units[block.path], counts.kv_groups.get(block.path)
            for path, linear in block.linears.items():
                inputs, outputs = linear.compute_pruned_shape(units, kv_groups)
                parameters[block.kind] += (inputs + linear.bias) * outputs
                sizes = {"rank": counts.ranks.get(path, 0), "inputs": inputs, "outputs": outputs}
                parameters["adapter"] += count_adapter_parameters(counts.peft_type, sizes)
            if isinstance(block, AttentionBlock):
                owner = block.position_bias_owner
                if owner in ("", block.path) or owner in pruned_stacks:
                    parameters["attention"] += block.parameters_per_head * units
        return parameters
