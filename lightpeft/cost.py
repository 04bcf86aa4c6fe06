"""Sizes of a model's blocks, and what they cost in parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from lightpeft.errors import PlanError

PARTS = ("embeddings", "attention", "feed_forward", "adapter", "norms", "head")


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """One linear of a block, unpruned, and which of its sides loses units.

    Attributes:
        inputs: columns of the weight.
        outputs: rows of the weight.
        bias: whether it has one.
        block: path of the attention or feed-forward block whose units it carries.
        side: where the units lie: rows (`out`) or columns (`in`).
        unit: rows or columns of one unit: the head size, or 1 for a neuron.
    """

    inputs: int
    outputs: int
    bias: bool
    block: str
    side: Literal["in", "out"]
    unit: int

    def keep(self, units: int) -> tuple[int, int]:
        """Inputs and outputs when the block keeps `units` of its units."""
        width = units * self.unit
        return (self.inputs, width) if self.side == "out" else (width, self.outputs)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What can be cut from a model, and what the rest of it weighs. Paths are in depth order.

    Attributes:
        model_type: as in the model's config.
        heads: attention block path -> heads.
        neurons: feed-forward block path -> neurons.
        linears: path of each block linear -> its shape.
        others: parameters outside the block linears: `embeddings`, `norms`, `head`.
    """

    model_type: str
    heads: dict[str, int]
    neurons: dict[str, int]
    linears: dict[str, LinearShape]
    others: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """What one part of a model costs; FLOPs are per token, 2 for a multiply-add."""

    parameters: int = 0
    trainable: int = 0
    training_flops_per_token: int = 0
    inference_flops_per_token: int = 0

    def __add__(self, other: PartCost) -> PartCost:
        """Both parts together."""
        mine, theirs = asdict(self), asdict(other)
        return PartCost(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Costs by part, in the order of `PARTS`."""

    parts: dict[str, PartCost]

    @property
    def total(self) -> PartCost:
        """All parts together."""
        return sum(self.parts.values(), PartCost())

    def with_trained_head(self, trained: int) -> CostTable:
        """The same, where only so many parameters of the head are trained (BERT's pooler isn't)."""
        head = replace(self.parts["head"], trainable=trained)
        return CostTable(parts=self.parts | {"head": head})

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Rows for JSON: each part, then `total`."""
        return {name: asdict(part) for name, part in {**self.parts, "total": self.total}.items()}


def cost(
    shape: ModelShape,
    *,
    heads: Mapping[str, int],
    neurons: Mapping[str, int],
    ranks: Mapping[str, int],
    length: int,
) -> CostTable:
    """Count parameters and FLOPs of a model that keeps so many units and ranks.

    Only matrix products count, as in torch's FlopCounterMode: a linear of n inputs and m
    outputs takes 2nm a token, its adapter 2r(n + m), attention 4 * length * width for scores
    and context (width: kept heads * head size). Lookups, norms, activations, softmax and
    biases take none. The head sees one token a row: 2 * its parameters / length.

    Training is forward, plus the gradients that autograd computes with the base frozen and the
    adapters and the head trained. Backward stops at the lowest block with an adapter: below,
    and at the linears that read this block's input, there are no input gradients. Attention's
    backward is twice its forward (fused kernels compute the scores again: half a forward more).

    Deviations: in the lowest block attention's backward counts query, key and value as if each
    had an adapter; the head's biases count as weights; a projection inside the embeddings
    (ELECTRA small) counts as a lookup.

    Args:
        shape: the unpruned model.
        heads: attention block path -> heads kept.
        neurons: feed-forward block path -> neurons kept.
        ranks: linear path -> rank of its adapter; 0 or absent where it has none.
        length: tokens a row.
    """
    if unknown := sorted(set(ranks) - set(shape.linears)):
        raise PlanError(f"{unknown[0]} is no block linear of this {shape.model_type} model")
    parts = {name: PartCost(parameters=shape.others.get(name, 0)) for name in PARTS}
    units = {**heads, **neurons}
    reached = False  # whether a gradient is wanted by what lies below the block
    for block, linears in _blocks(shape).items():
        kind = "attention" if block in shape.heads else "feed_forward"
        sizes = {path: linear.keep(units[block]) for path, linear in linears.items()}
        adapted = {path for path in linears if ranks.get(path)}
        inside = reached or any(linears[path].side == "out" for path in adapted)
        for path, linear in linears.items():
            wanted = inside if linear.side == "in" else reached
            parts[kind] += _linear(*sizes[path], bias=linear.bias, reached=wanted)
            parts["adapter"] += _adapter(*sizes[path], rank=ranks.get(path, 0), reached=wanted)
            if kind == "attention" and linear.side == "in":
                parts[kind] += _scores(sizes[path][0], length, reached=inside)
        reached = reached or bool(adapted)
    return CostTable(parts=parts | {"head": _head(shape.others["head"], length, reached=reached)})


def _blocks(shape: ModelShape) -> dict[str, dict[str, LinearShape]]:
    """The linears of each block, both in depth order."""
    blocks: dict[str, dict[str, LinearShape]] = {}
    for path, linear in shape.linears.items():
        blocks.setdefault(linear.block, {})[path] = linear
    return blocks


def _linear(inputs: int, outputs: int, *, bias: bool, reached: bool) -> PartCost:
    """A frozen linear: forward 2nm, and 2nm for the input's gradient where it is `reached`."""
    forward = 2 * inputs * outputs
    return PartCost(
        parameters=inputs * outputs + (outputs if bias else 0),
        training_flops_per_token=forward * (2 if reached else 1),
        inference_flops_per_token=forward,
    )


def _adapter(inputs: int, outputs: int, *, rank: int, reached: bool) -> PartCost:
    """A LoRA pair: forward and weight gradients 2r(n + m) each, 2rm into A, 2rn to the input."""
    forward = 2 * rank * (inputs + outputs)
    backward = forward + 2 * rank * outputs + (2 * rank * inputs if reached else 0)
    weights = rank * (inputs + outputs)
    return PartCost(
        parameters=weights,
        trainable=weights,
        training_flops_per_token=forward + backward,
        inference_flops_per_token=forward,
    )


def _scores(width: int, length: int, *, reached: bool) -> PartCost:
    """Two products of each token with `length` tokens, over all heads `width` wide."""
    forward = 4 * length * width
    return PartCost(
        training_flops_per_token=forward * (3 if reached else 1),
        inference_flops_per_token=forward,
    )


def _head(weights: int, length: int, *, reached: bool) -> PartCost:
    """The task head, trained whole, on one token of a row."""
    forward = 2 * weights / length
    return PartCost(
        parameters=weights,
        trainable=weights,
        training_flops_per_token=round(forward * (3 if reached else 2)),
        inference_flops_per_token=round(forward),
    )
