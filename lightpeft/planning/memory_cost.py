"""Predict the peak bytes of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from lightpeft.core.block_shape import AttentionBlock, Block, FeedForwardBlock
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.planning.cost import compute_cost, list_block_passes

_FLOAT32 = 4
_WITH_RELU = ("opt",)  # a ReLU keeps its output alone, which the next linear reads anyway
_WITH_HEAD_NORMS = ("qwen3", "qwen3_moe")  # of queries and keys


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of a training step, by what they are for.

    Attributes:
        weights: of the base model, in its dtype, and peft's untrained copy of a new head.
        trained: trained weights in float32 with the two moments of AdamW.
        gradients: of the trained weights; there once the activations are gone.
        activations: what autograd keeps of the forward pass, from the lowest adapter upwards.
        transient: what the start of the backward pass adds to the activations.
    """

    weights: int
    trained: int
    gradients: int
    activations: int
    transient: int

    @property
    def peak(self) -> int:
        """The most bytes at one time."""
        return self.weights + self.trained + max(self.activations + self.transient, self.gradients)


def predict_training_memory(
    shape: ModelShape, counts: UnitCounts, *, tokens: int, width: int
) -> TrainingMemory:
    """Predict what a step of a model with `lightpeft.accelerate` holds at its peak.

    A pass through a block keeps, per token: the input of its norm; the input of each linear that
    has an adapter, once where several read it; the rank-wide product of each adapter; queries, keys
    and values, which transformers repeats for each query head where there is a mask, and the
    context; of a feed-forward block what its activation reads and makes, of a gated one both
    factors too. RMSNorm (of models with a gated feed-forward) and norms of heads are computed in
    float32 from a copy. Other models have two dropouts a layer, with a byte per value.

    Backward starts with three float32 tensors of the size of a language model's logits (log-softmax
    and two gradients), or else, in the last block, two tensors more as wide as its inner width.

    Attention is that of fused kernels (flash, memory-efficient), which keep no matrix of
    probabilities. Not counted: masks for padding, dropout in adapters, experts that aren't pruned,
    norms' statistics, what kernels need for a while, fragments. Compared with tensors tracked
    in BERT, RoBERTa, OPT, Llama and Qwen3; other models go by the same rules, unchecked.

    Args:
        shape: without pruned layers.
        counts: units and ranks that it keeps.
        tokens: of a batch: rows times length.
        width: bytes of a value of the base model: 4 of float32, 2 of bfloat16.
    """
    cost = compute_cost(shape, counts, length=1)
    frozen = cost.total.parameters - cost.total.trainable
    rules = _Rules.of(shape, width)
    kept = transient = 0
    reached = False
    for block in list_block_passes(shape):
        kept += rules.norm * reached  # the lowest adapter's block reads what needs no gradient
        reached = reached or any(map(counts.ranks.get, block.linears))
        kept += reached * _count_kept(block, counts, rules)
        transient = 2 * width * _count_columns(block, counts) * reached
    logits = 3 * _FLOAT32 * shape.matmul_weights.get("lm", 0) // max(1, rules.hidden)
    return TrainingMemory(
        weights=width * (frozen + cost.parts["head"].trainable),
        trained=3 * _FLOAT32 * cost.total.trainable,
        gradients=_FLOAT32 * cost.total.trainable,
        activations=tokens * (kept + rules.norm * reached),
        transient=tokens * max(logits, transient),
    )


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What the blocks of one model have in common.

    Attributes:
        width: bytes of a value.
        hidden: values per token between the blocks.
        is_gated: whether a feed-forward block multiplies two factors.
        has_relu: whether its activation keeps nothing but its output.
        has_head_norms: whether queries and keys are normalized.
    """

    width: int
    hidden: int
    is_gated: bool
    has_relu: bool
    has_head_norms: bool

    @classmethod
    def of(cls, shape: ModelShape, width: int) -> _Rules:
        linears = shape.linears.values()
        return cls(
            width=width,
            hidden=next((x.inputs for x in linears if x.pruned_dim == "out"), 0),
            is_gated=any(map(_is_gated, shape.blocks)),
            has_relu=shape.model_type in _WITH_RELU,
            has_head_norms=shape.model_type in _WITH_HEAD_NORMS,
        )

    @property
    def norm(self) -> int:
        """Bytes per token that a norm keeps."""
        return self.hidden * (_FLOAT32 if self.is_gated else self.width)


def _is_gated(block: Block) -> bool:
    slots = sum(len(x.segments) for x in block.linears.values() if x.pruned_dim == "out")
    return isinstance(block, FeedForwardBlock) and slots > 1


def _count_columns(block: Block, counts: UnitCounts) -> int:
    """Return the inputs of the block's output projection."""
    linear = block.linears[block.output_projection]
    return linear.compute_pruned_shape(counts.units[block.path])[0]


def _count_kept(block: Block, counts: UnitCounts, rules: _Rules) -> int:
    """Return the bytes per token that one pass keeps, without the norm before it."""
    inner, output = _count_columns(block, counts), block.output_projection
    reads = any(counts.ranks.get(path) for path in block.linears if path != output)
    numbers = rules.hidden * reads + sum(counts.ranks.get(path, 0) for path in block.linears)
    dropped = 0 if rules.is_gated else rules.hidden
    if isinstance(block, AttentionBlock):
        normed = _count_queries_and_keys(block, counts) if rules.has_head_norms else 0
        return rules.width * (numbers + 4 * inner) + _FLOAT32 * normed + dropped
    activated = 3 if rules.is_gated else 1
    if counts.ranks.get(output) and not rules.has_relu:
        activated += 1
    return rules.width * (numbers + activated * inner) + dropped


def _count_queries_and_keys(block: Block, counts: UnitCounts) -> int:
    """Return the outputs of the first two projections."""
    units, kv_groups = counts.units[block.path], counts.kv_groups.get(block.path)
    inputs = [x for x in block.linears.values() if x.pruned_dim == "out"]
    return sum(x.compute_pruned_shape(units, kv_groups)[1] for x in inputs[:2])
