"""Decide which layers are pruned whole, before anything else is; and what is left to decide on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from lightpeft.core.errors import PlanError
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.layers import KeptLayers, LayerStack, find_new_path
from lightpeft.core.scores import Scores

_Value = TypeVar("_Value")


def prune_layers(scores: Scores, ratio: float, notes: list[str]) -> dict[str, KeptUnits]:
    """Choose the layers of each stack that stay: all but a fraction, of the lowest scores.

    Args:
        scores: from `estimate`, or random ones.
        ratio: fraction of each stack's layers to prune; at least one layer stays.
        notes: gets a line for each stack that can't lose so many.

    Raises:
        PlanError: no layer of the model can be pruned; says why.
    """
    stacks = scores.shape.stacks
    if ratio and not any(stack.prunable for stack in stacks):
        reason = stacks[0].reason if stacks else "it has no stack of layers"
        raise PlanError(
            f"layers must be 0: no layer of this {scores.shape.model_type} model can be pruned, "
            f"since {reason}"
        )
    return {stack.path: _prune_stack(stack, scores, ratio, notes) for stack in stacks}


def _prune_stack(stack: LayerStack, scores: Scores, ratio: float, notes: list[str]) -> KeptUnits:
    wanted = math.floor(ratio * stack.layers + 0.5)
    count = min(wanted, len(stack.prunable), stack.layers - 1)
    if count < wanted:
        reason = stack.reason or "one stays"
        notes.append(
            f"{stack.path} loses {count} layers; by the ratio it would lose {wanted}: {reason}"
        )
    if not count:
        return KeptUnits(total=stack.layers, kept=tuple(range(stack.layers)), reason="all kept")
    values = scores.layers[stack.path]
    # Of equal scores the highest layer goes first, as the lower index stays elsewhere.
    order = sorted(stack.prunable, key=lambda layer: (float(values[layer]), -layer))
    gone = order[:count]
    left = [float(values[layer]) for layer in order[count:]]
    reason = f"{count} of {stack.layers} layers pruned, the lowest: up to {values[gone[-1]]:.3g}"
    return KeptUnits(
        total=stack.layers,
        kept=tuple(layer for layer in range(stack.layers) if layer not in gone),
        reason=f"{reason}; kept from {min(left):.3g}" if left else reason,
    )


def select_layers(scores: Scores, kept: KeptLayers) -> Scores:
    """Return the scores of what is in the layers that stay.

    Raises:
        PlanError: no PEFT module is.
    """
    if not kept:
        return scores
    modules = dict(_select(scores.modules, kept))
    if not modules:
        raise PlanError("layers must be lower: all layers with PEFT modules would be pruned")
    blocks = [block for block in scores.shape.blocks if find_new_path(block.path, kept)]
    return replace(
        scores,
        shape=replace(scores.shape, blocks=tuple(blocks)),
        heads={name: dict(_select(rows, kept)) for name, rows in scores.heads.items()},
        neurons={name: dict(_select(rows, kept)) for name, rows in scores.neurons.items()},
        modules=modules,
        ranks=dict(_select(scores.ranks, kept)),
    )


def add_pruned(units: Mapping[str, KeptUnits], totals: Mapping[str, int]) -> dict[str, KeptUnits]:
    """Return the units kept, with those of pruned layers, none of which is.

    Args:
        units: by the paths in the layers that stay.
        totals: by all paths, how many there are.
    """
    return {
        path: units.get(path) or KeptUnits(total=total, kept=(), reason="its layer is pruned")
        for path, total in totals.items()
    }


def _select(values: Mapping[str, _Value], kept: KeptLayers) -> Iterator[tuple[str, _Value]]:
    for path, value in values.items():
        if find_new_path(path, kept) is not None:
            yield path, value
