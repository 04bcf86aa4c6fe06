"""Count the numbers that a training step keeps in memory at its peak."""

from __future__ import annotations

from collections.abc import Iterator

from lightpeft.core.block_shape import AttentionBlock, Block
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.planning.cost import compute_cost, list_block_passes


def count_training_numbers(
    shape: ModelShape, counts: UnitCounts, *, rows: int, length: int
) -> float:
    """Count weights, gradients, moments of AdamW, and activations that backward reads.

    Gradients and moments are three numbers per trained weight. Activations are kept from the
    lowest block with an adapter upwards; of each pass through a block, per token: the input of the
    block and of its norm, the outputs of its input projections, and the input of its output
    projection (of a gated feed-forward block twice: the activated gate, too). A language model
    keeps its logits and their gradient. Adapters' own activations, masks, attention probabilities
    (fused kernels keep none) and what a kernel needs for a while are not counted, and all numbers
    count as equally wide, so that only the ratio of two models means something.

    Args:
        shape: without pruned layers.
        counts: units and ranks that it keeps.
        rows: of a batch.
        length: tokens a row.
    """
    total = compute_cost(shape, counts, length=length).total
    per_token = sum(_count_kept(block, counts) for block in _list_trained_passes(shape, counts))
    hidden = next((x.inputs for x in shape.linears.values() if x.pruned_dim == "out"), 1)
    logits = 2 * shape.matmul_weights.get("lm", 0) / hidden
    return total.parameters + 3 * total.trainable + rows * length * (per_token + logits)


def _list_trained_passes(shape: ModelShape, counts: UnitCounts) -> Iterator[Block]:
    """Yield the blocks, as often as they run, from the lowest with an adapter upwards."""
    reached = False
    for block in list_block_passes(shape):
        reached = reached or any(map(counts.ranks.get, block.linears))
        if reached:
            yield block


def _count_kept(block: Block, counts: UnitCounts) -> int:
    """Return the numbers per token that one pass keeps for backward."""
    units, kv_groups = counts.units[block.path], counts.kv_groups.get(block.path)
    numbers, slots = 0, 0
    for linear in block.linears.values():
        inputs, outputs = linear.compute_pruned_shape(units, kv_groups)
        if linear.pruned_dim == "in":
            numbers += 2 * outputs  # as wide as what the block reads
            read = inputs
        else:
            numbers += outputs
            slots += len(linear.segments)
    activated = 1 if isinstance(block, AttentionBlock) else slots
    return numbers + activated * read
