"""Draw plans that prune a small model at random, to prove that pruned equals masked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lightpeft.core.block_shape import AttentionBlock
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.layers import KeptLayers, find_new_path
from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape

RANK = 2  # of LoRA on all block linears


def draw_plans(shape: ModelShape) -> Iterator[PruningPlan]:
    """Draw what each block keeps: whole KV groups, single heads, nothing in some blocks."""
    shares = any(1 < x.heads_per_kv_group for x in shape.attention_blocks)
    for seed, by_group, empties in ((0, True, False), (1, not shares, False), (2, True, True)):
        draw = random.Random(seed)
        emptied = {x.path for x in shape.blocks[::3]} if empties else set()
        kept: dict[str, list[int]] = {}
        for block in shape.blocks:
            if isinstance(block, AttentionBlock):
                kept[block.path] = _draw_heads(draw, block, by_group=by_group)
            else:
                count = draw.randint(1, max(1, block.units - 1))
                kept[block.path] = sorted(draw.sample(range(block.units), count))
        cuts = {
            block.path: KeptUnits(
                total=block.units,
                kept=() if block.path in emptied else tuple(kept[block.path]),
                reason="proof",
            )
            for block in shape.blocks
        }
        ranks = {
            path: KeptUnits(total=RANK, kept=tuple(range(RANK)), reason="proof")
            for path, linear in shape.linears.items()
            if not (shape.block_of[path].path in emptied and linear.pruned_dim == "in")
        }
        yield PruningPlan(
            shape=shape,
            fingerprint="",
            scores="",
            settings={},
            heads={path: cuts[path] for path in shape.heads},
            neurons={path: cuts[path] for path in shape.neurons},
            ranks=ranks,
            notes=(),
        )


def draw_layer_plans(shape: ModelShape) -> Iterator[PruningPlan]:
    """Draw plans by which every stack loses its first or its last prunable layer.

    By the second, heads and neurons are pruned too.
    """
    cut = next(draw_plans(shape))
    whole = {
        path: KeptUnits(total=x.total, kept=tuple(range(x.total)), reason="proof")
        for path, x in cut.units.items()
    }
    for number, units in ((0, whole), (-1, cut.units)):
        gone = {stack.path: stack.prunable[number] for stack in shape.stacks if stack.prunable}
        kept = {
            stack.path: tuple(x for x in range(stack.layers) if x != gone.get(stack.path))
            for stack in shape.stacks
        }

        yield replace(
            cut,
            layers={
                stack.path: KeptUnits(total=stack.layers, kept=kept[stack.path], reason="proof")
                for stack in shape.stacks
            },
            heads=_drop({path: units[path] for path in shape.heads}, kept),
            neurons=_drop({path: units[path] for path in shape.neurons}, kept),
            ranks=_drop(cut.ranks, kept),
        )


def _drop(units: Mapping[str, KeptUnits], kept: KeptLayers) -> dict[str, KeptUnits]:
    """Return what is kept, nothing of it in pruned layers."""
    return {
        path: x if find_new_path(path, kept) else replace(x, kept=()) for path, x in units.items()
    }


def _draw_heads(draw: random.Random, block: AttentionBlock, *, by_group: bool) -> list[int]:
    sharing = block.heads_per_kv_group
    groups = range(block.units // sharing)
    if by_group and len(groups) > 1:
        kept = sorted(draw.sample(groups, draw.randint(1, len(groups) - 1)))
        return [group * sharing + head for group in kept for head in range(sharing)]
    count = draw.randint(1, max(1, sharing - 1))
    return [
        group * sharing + head
        for group in groups
        for head in sorted(draw.sample(range(sharing), count))
    ]
