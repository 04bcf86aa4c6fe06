"""What a model that keeps so many units costs, in parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from lightpeft.core.errors import PlanError
from lightpeft.core.shape import LinearShape, ModelShape

PARTS = ("embeddings", "attention", "feed_forward", "adapter", "norms", "head")


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
    groups: Mapping[str, int] | None = None,
) -> CostTable:
    """Count parameters and FLOPs of a model that keeps so many units and ranks.

    Only matrix products count, as in torch's FlopCounterMode: a linear of n inputs and m
    outputs takes 2nm a token, its adapter 2r(n + m), attention 4 * length * width for scores
    and context (width: kept query heads * head size). Lookups, norms, activations, softmax and
    biases take none. A head of which one token a row counts takes 2 * its parameters / length, any
    other runs on every token. A block that several layers share counts once in parameters and once
    a layer in FLOPs. Experts that stay whole count in parameters all, in FLOPs those that a token
    goes to.

    Training is forward, plus the gradients that autograd computes with the base frozen and the
    adapters and a fresh head trained. Backward stops at the lowest block with an adapter: below,
    and at the linears that read this block's input, there are no input gradients. Attention's
    backward is twice its forward (fused kernels compute the scores again: half a forward more).

    Deviations: in the lowest block attention's backward counts query, key and value as if each
    had an adapter; biases of a head on one token a row count as weights; of an encoder-decoder
    both sides have `length` tokens, and backward stops as if they were one stack; DeBERTa's terms
    of relative positions count for their projections only; a convolution counts once a token;
    where attention and feed-forward read one input (GPT-NeoX, Falcon), its gradient counts twice.

    Args:
        shape: the unpruned model.
        heads: attention block path -> query heads kept.
        neurons: feed-forward block path -> neurons kept.
        ranks: linear path -> rank of its adapter; 0 or absent where it has none.
        length: tokens a row.
        groups: attention block path -> KV groups kept; None where whole groups go.
    """
    if unknown := sorted(set(ranks) - set(shape.linears)):
        raise PlanError(f"{unknown[0]} is no block linear of this {shape.model_type} model")
    parts = {name: PartCost(parameters=shape.others.get(name, 0)) for name in PARTS}
    parts["attention"] += PartCost(parameters=_own_parameters(shape, heads))
    parts["embeddings"] += PartCost(
        training_flops_per_token=2 * shape.products.get("embeddings", 0),
        inference_flops_per_token=2 * shape.products.get("embeddings", 0),
    )
    units = {**heads, **neurons}
    reached = False  # whether a gradient is wanted by what lies below the block
    for block, linears, again in _runs(shape):
        alive = None if groups is None else groups.get(block)
        sizes = {path: linear.keep(units[block], alive) for path, linear in linears.items()}
        run = _Run(shape, block, sizes, ranks, length)
        for name, part in run.costs(reached=reached).items():
            parts[name] += replace(part, parameters=0, trainable=0) if again else part
        reached = reached or any(ranks.get(path) for path in linears)
        experts = _linear(1, shape.experts.get(block, 0), bias=False, reached=reached)
        parts["feed_forward"] += replace(experts, parameters=0)
    return CostTable(parts=parts | {"head": _head(shape, length, reached=reached)})


@dataclass(frozen=True)
class _Run:
    """One pass through a block: path of each of its linears -> inputs and outputs left."""

    shape: ModelShape
    block: str
    sizes: dict[str, tuple[int, int]]
    ranks: Mapping[str, int]
    length: int

    def costs(self, *, reached: bool) -> dict[str, PartCost]:
        """Costs by part; `reached`: whether a gradient is wanted by what lies below."""
        kind = "attention" if self.block in self.shape.heads else "feed_forward"
        linears = {path: self.shape.linears[path] for path in self.sizes}
        entries = [path for path, linear in linears.items() if linear.side == "out"]
        inside = reached or any(self.ranks.get(path) for path in entries)
        found = {kind: PartCost(), "adapter": PartCost()}
        for path, size in self.sizes.items():
            linear, rank = linears[path], self.ranks.get(path, 0)
            wanted = inside if linear.side == "in" else reached
            found[kind] += _linear(*size, bias=linear.bias, reached=wanted)
            found["adapter"] += _adapter(*size, rank=rank, reached=wanted)
            if kind == "attention" and linear.side == "in":
                found[kind] += _scores(size[0], self.length, reached=inside)
        return found


def _own_parameters(shape: ModelShape, heads: Mapping[str, int]) -> int:
    """Parameters that heads own outside the linears."""
    total = 0
    for block, size in shape.per_head.items():
        lender = shape.lenders.get(block, block)
        stack = [other for other, known in shape.lenders.items() if known == lender]
        whole = all(heads[other] == shape.heads[other] for other in stack)
        if block == lender or not whole:
            total += size * heads[block]
    return total


def _runs(shape: ModelShape) -> Iterator[tuple[str, dict[str, LinearShape], bool]]:
    """Each block with its linears, in the order in which blocks run, and whether it ran before."""
    blocks: dict[str, dict[str, LinearShape]] = {}
    for path, linear in shape.linears.items():
        blocks.setdefault(linear.block, {})[path] = linear
    cycles: dict[str, list[str]] = {}
    for block in blocks:
        cycle = next((path for path in shape.repeats if block.startswith(f"{path}.")), block)
        cycles.setdefault(cycle, []).append(block)
    for cycle, members in cycles.items():
        for run in range(shape.repeats.get(cycle, 1)):
            yield from ((block, blocks[block], run > 0) for block in members)


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


def _head(shape: ModelShape, length: int, *, reached: bool) -> PartCost:
    """A fresh head, trained whole, on every token or on one of a row; or a pretrained one."""
    weights, found = shape.others["head"], shape.products
    fresh = 2 * (found.get("row", 0) / length + found.get("token", 0))
    frozen = 2 * found.get("lm", 0)
    return PartCost(
        parameters=weights,
        trainable=0 if frozen else weights,
        training_flops_per_token=round(fresh * (3 if reached else 2))
        + frozen * (2 if reached else 1),
        inference_flops_per_token=round(fresh) + frozen,
    )
