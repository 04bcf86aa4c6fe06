"""Count parameters and FLOPs of a model that keeps so many units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from lightpeft.core.adapter_layout import count_adapter_products
from lightpeft.core.block_shape import AttentionBlock, Block
from lightpeft.core.errors import PlanError
from lightpeft.core.shape import ModelShape, UnitCounts

PARTS = ("embeddings", "attention", "feed_forward", "adapter", "norms", "head")


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """What one part of a model costs; FLOPs are per token, 2 for a multiply-add."""

    parameters: int = 0
    trainable: int = 0
    training_flops_per_token: int = 0
    inference_flops_per_token: int = 0

    def __add__(self, other: PartCost) -> PartCost:
        """Return the cost of both parts."""
        return PartCost(
            parameters=self.parameters + other.parameters,
            trainable=self.trainable + other.trainable,
            training_flops_per_token=self.training_flops_per_token + other.training_flops_per_token,
            inference_flops_per_token=self.inference_flops_per_token
            + other.inference_flops_per_token,
        )


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Costs by part, in the order of `PARTS`."""

    parts: dict[str, PartCost]

    @property
    def total(self) -> PartCost:
        """Cost of the model."""
        return sum(self.parts.values(), PartCost())

    def replace_trained_head(self, trained: int) -> CostTable:
        """Return the table with only so many trainable head parameters (BERT's pooler isn't)."""
        head = replace(self.parts["head"], trainable=trained)
        return CostTable(parts=self.parts | {"head": head})

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Return rows for JSON: each part, then `total`."""
        return {name: asdict(part) for name, part in {**self.parts, "total": self.total}.items()}


def compute_cost(shape: ModelShape, counts: UnitCounts, *, length: int) -> CostTable:
    """Count parameters and FLOPs of a model that keeps so many units and ranks.

    Only matrix products count, as in torch's FlopCounterMode: a linear of n inputs and m outputs
    takes 2nm per token, its LoRA 2r(n + m) or bottleneck adapter 4rm, attention 4 * length * width
    for scores and context (width: kept query heads * head size). Lookups, norms, activations,
    softmax and biases take none. A head that is applied to one token per row takes 2 * its
    parameters / length, any other runs on every token. A block that several layers share counts
    once in parameters and once per layer in FLOPs. Of unpruned experts all parameters count, and
    the FLOPs of those that a token is routed to.

    Training is forward, plus the gradients that autograd computes with the base frozen and the
    adapters and a new head trained. Backward stops at the lowest block with an adapter: below,
    and at the linears that read this block's input, there are no input gradients. Attention's
    backward is twice its forward (fused kernels compute the scores again: half a forward more).

    Deviations: in the lowest block attention's backward counts query, key and value as if each
    had an adapter; biases of a head on one token per row count as weights; in an encoder-decoder
    both sides have `length` tokens, and backward stops as if they were one stack; of DeBERTa's
    relative positions only the projections count; a convolution counts once per token;
    where attention and feed-forward read one input (GPT-NeoX, Falcon), its gradient counts twice;
    a block without units counts as one unit, as its weights do, though it multiplies nothing.

    Args:
        shape: the unpruned model.
        counts: units and KV groups that the blocks keep, and ranks of the adapters.
        length: tokens per row.

    Raises:
        PlanError: an adapter is on no block linear.
    """
    if unknown := sorted(set(counts.ranks) - set(shape.linears)):
        raise PlanError(f"{unknown[0]} is no block linear of this {shape.model_type} model")
    parameters = shape.count_parameters(counts)
    parts = {name: PartCost(parameters=parameters[name]) for name in PARTS}
    parts["adapter"] = replace(parts["adapter"], trainable=parameters["adapter"])
    # The embeddings' input gradient is never computed.
    parts["embeddings"] += _count_matmul(shape.matmul_weights.get("embeddings", 0), backward=0)
    needs_input_grad = False
    for block in list_block_passes(shape):
        for name, part in _count_block_flops(block, counts, length, needs_input_grad).items():
            parts[name] += part
        needs_input_grad = needs_input_grad or any(map(counts.ranks.get, block.linears))
        if isinstance(block, AttentionBlock):
            experts = _count_matmul(block.moe_matmul_weights, backward=int(needs_input_grad))
            parts["feed_forward"] += experts
    parts["head"] = _count_head(shape, length, needs_input_grad=needs_input_grad)
    return CostTable(parts=parts)


def list_block_passes(shape: ModelShape) -> Iterator[Block]:
    """Yield each block as often as it runs, in execution order."""

    def find_repeated_module(block: Block) -> str:
        inside = (path for path in shape.layer_repeats if block.path.startswith(f"{path}."))
        return next(inside, block.path)

    for path, blocks in groupby(shape.blocks, find_repeated_module):
        yield from [*blocks] * shape.layer_repeats.get(path, 1)


def _count_block_flops(
    block: Block, counts: UnitCounts, length: int, needs_input_grad: bool
) -> dict[str, PartCost]:
    """Return the FLOPs of one pass through a block, by part."""
    units, kv_groups = counts.units[block.path], counts.kv_groups.get(block.path)
    trained_inputs = any(
        counts.ranks.get(path) for path, x in block.linears.items() if x.pruned_dim == "out"
    )
    needs_inner_grad = needs_input_grad or trained_inputs
    parts = {block.kind: PartCost(), "adapter": PartCost()}
    for path, linear in block.linears.items():
        is_output = linear.pruned_dim == "in"
        inputs, outputs = linear.compute_pruned_shape(units, kv_groups)
        needs_grad = needs_inner_grad if is_output else needs_input_grad
        parts[block.kind] += _count_matmul(inputs * outputs, backward=int(needs_grad))
        sizes = {"rank": counts.ranks.get(path, 0), "inputs": inputs, "outputs": outputs}
        products = count_adapter_products(counts.peft_type, sizes)
        parts["adapter"] += _count_adapter(*products, needs_input_grad=needs_grad)
        if is_output and isinstance(block, AttentionBlock):
            # Scores and context: two products of each token with `length` tokens, all heads wide.
            parts[block.kind] += _count_matmul(2 * length * inputs, backward=2 * needs_inner_grad)
    return parts


def _count_matmul(weights: int, *, backward: int) -> PartCost:
    """Return the FLOPs of a product per token: once forward, `backward` times as many backward."""
    forward = 2 * weights
    return PartCost(
        training_flops_per_token=forward * (1 + backward), inference_flops_per_token=forward
    )


def _count_adapter(first: int, second: int, *, needs_input_grad: bool) -> PartCost:
    """Count two products of so many weights: forward, and gradients of weights and inputs."""
    forward = 2 * (first + second)
    backward = forward + 2 * second + (2 * first if needs_input_grad else 0)
    return PartCost(training_flops_per_token=forward + backward, inference_flops_per_token=forward)


def _count_head(shape: ModelShape, length: int, *, needs_input_grad: bool) -> PartCost:
    """Return the cost of the head: new and trained, or pretrained and frozen."""
    weights, matmul = shape.non_block_parameters["head"], shape.matmul_weights
    new = 2 * (matmul.get("row", 0) / length + matmul.get("token", 0))
    pretrained = 2 * matmul.get("lm", 0)
    return PartCost(
        parameters=weights,
        trainable=0 if pretrained else weights,
        training_flops_per_token=round(new * (3 if needs_input_grad else 2))
        + pretrained * (2 if needs_input_grad else 1),
        inference_flops_per_token=round(new) + pretrained,
    )
