"""Make a plan from scores and ratios: exact counts, minimum counts, alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lightpeft.core.config import PruningConfig
from lightpeft.core.plan import KeptUnits, PruningPlan
from lightpeft.core.scores import Scores


def make_plan(scores: Scores, config: PruningConfig) -> PruningPlan:
    """Decide which units to prune: those of the lowest scores, an exact count, ties by index.

    Phase 2 of Light-PEFT (arXiv:2406.03792): heads per layer, neurons over all layers, PEFT
    modules over all modules, PEFT ranks over all remaining modules. Deviations: a count, not a
    quantile, so that not all of equal scores are pruned; a layer keeps at least one head and
    `align` neurons.

    Args:
        scores: from `estimate`.
        config: the fractions to prune, and by which criterion.

    Example:
        >>> config = lightpeft.PruningConfig(heads=0.25, neurons=0.5, modules=0, ranks=0.5)
        >>> plan = lightpeft.make_plan(scores, config)
        >>> plan
        PruningPlan(bert: 6 of 8 heads, 64 of 128 neurons, 8 of 12 PEFT modules, 24 of 48 ranks)
        >>> len(plan.heads["bert.encoder.layer.0.attention"].kept)
        3
    """
    notes: list[str] = []
    unit_scores = _UnitScores(scores, config.criterion, config.seed)
    return PruningPlan(
        shape=scores.shape,
        fingerprint=scores.fingerprint,
        scores=scores.digest,
        settings=config.model_dump(),
        heads=_prune_heads(unit_scores, config, notes),
        neurons=_prune_neurons(unit_scores, config, notes),
        ranks=_prune_ranks(unit_scores, config, notes),
        notes=tuple(notes),
    )


class _UnitScores:
    """The scores by one criterion; `random` draws them from one generator, block after block."""

    def __init__(self, scores: Scores, criterion: str, seed: int) -> None:
        self.scores, self.criterion = scores, criterion
        self._generator = torch.Generator().manual_seed(seed)

    def of_block(self, group: str, block: str) -> Tensor:
        if self.criterion == "random":
            total = getattr(self.scores.shape, group)[block]
            return torch.rand(total, generator=self._generator)
        by_criterion: Mapping[str, Mapping[str, Tensor]] = getattr(self.scores, group)
        return by_criterion[self.criterion][block]

    def of_modules(self, names: list[str]) -> Tensor:
        if self.criterion == "random":
            return torch.rand(len(names), generator=self._generator)
        return torch.tensor([self.scores.modules[name] for name in names])

    def of_ranks(self, module: str) -> Tensor:
        if self.criterion == "random":
            return torch.rand(len(self.scores.ranks[module]), generator=self._generator)
        return self.scores.ranks[module]


def _keep_count(ratio: float, total: int, *, minimum: int) -> int:
    """Return how many of `total` to keep; the number to prune is rounded, halves up."""
    return max(min(minimum, total), total - math.floor(ratio * total + 0.5))


def _top_k_indices(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the `count` highest scores; among equals the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return tuple(sorted(order.tolist()))


def _keep_highest(scores: Tensor, count: int, criterion: str) -> KeptUnits:
    total = len(scores)
    kept = _top_k_indices(scores, count)
    if count == total:
        return KeptUnits(total=total, kept=kept, reason="all kept")
    is_pruned = torch.ones(total, dtype=torch.bool)
    is_pruned[list(kept)] = False
    highest_pruned, lowest_kept = float(scores[is_pruned].max()), float(scores[list(kept)].min())
    reason = (
        f"{total - count} of {total} pruned, the lowest by {criterion}: "
        f"up to {highest_pruned:.3g}; kept from {lowest_kept:.3g}"
    )
    return KeptUnits(total=total, kept=kept, reason=reason)


def _prune_heads(
    unit_scores: _UnitScores, config: PruningConfig, notes: list[str]
) -> dict[str, KeptUnits]:
    """Choose heads in each layer: KV groups, or query heads of each group, if any share keys."""
    kept, shape = {}, unit_scores.scores.shape
    for attention in shape.attention_blocks:
        block, total, sharing = attention.path, attention.units, attention.heads_per_kv_group
        scores = unit_scores.of_block("heads", block)
        rows, unit = scores.reshape(-1, sharing), "head"
        # The only KV group can't be pruned, so its query heads are, whatever the granularity.
        if sharing == 1 or (config.head_granularity == "kv_group" and total > sharing):
            rows, unit = rows.sum(dim=1)[None], "head" if sharing == 1 else "KV group"
        count = _keep_count(config.heads, rows.shape[1], minimum=1)
        if count > _keep_count(config.heads, rows.shape[1], minimum=0):
            notes.append(f"{block} keeps the minimum of 1 {unit}; by its ratio it would keep none")
        if sharing == 1:
            kept[block] = _keep_highest(scores, count, unit_scores.criterion)
        else:
            kept[block] = _prune_grouped_heads(rows, count, total, unit_scores.criterion)
    return kept


def _prune_grouped_heads(rows: Tensor, count: int, total: int, criterion: str) -> KeptUnits:
    """Keep `count` of each row: of the query heads of every KV group, or of all groups in one."""
    groups, units = rows.shape
    chosen = [_top_k_indices(row, count) for row in rows]
    if groups * units == total:
        kept = [group * units + head for group, heads in enumerate(chosen) for head in heads]
        description = f"{units - count} of {units} query heads of each KV group"
    else:
        sharing = total // units
        kept = [group * sharing + head for group in chosen[0] for head in range(sharing)]
        description = f"{units - count} of {units} KV groups"
    reason = "all kept" if count == units else f"{description} pruned, the lowest by {criterion}"
    return KeptUnits(total=total, kept=tuple(kept), reason=reason)


def _prune_neurons(
    unit_scores: _UnitScores, config: PruningConfig, notes: list[str]
) -> dict[str, KeptUnits]:
    shape = unit_scores.scores.shape
    totals = shape.neurons
    if shape.num_moe_layers and config.neurons:
        notes.append(
            f"the neurons of experts are kept, in {shape.num_moe_layers} layers: their weights "
            f"are fused; the ratio is of the other neurons ({sum(totals.values())})"
        )
    if not totals:
        return {}
    scores = {block: unit_scores.of_block("neurons", block) for block in totals}
    ratio, align = config.neurons, config.align
    if ratio == 0:
        return {
            block: _keep_highest(row, len(row), unit_scores.criterion)
            for block, row in scores.items()
        }
    if config.neuron_scope == "layer":
        wanted = {block: _keep_count(ratio, total, minimum=0) for block, total in totals.items()}
        target = sum(round(count / align) for count in wanted.values())
    else:
        keep = _keep_count(ratio, sum(totals.values()), minimum=0)
        owner = torch.repeat_interleave(torch.arange(len(totals)), torch.tensor([*totals.values()]))
        winners = owner[list(_top_k_indices(torch.cat([*scores.values()]), keep))]
        wanted = dict(zip(totals, winners.bincount(minlength=len(totals)).tolist(), strict=True))
        target = round(keep / align)
    for block, count in wanted.items():
        if count < min(align, totals[block]):
            notes.append(
                f"{block} keeps the minimum of {min(align, totals[block])} neurons; "
                f"by score it would keep {count}"
            )
    counts = _round_to_multiple(wanted, totals, align=align, target=target)
    return {
        block: _keep_highest(row, counts[block], unit_scores.criterion)
        for block, row in scores.items()
    }


def _round_to_multiple(
    wanted: dict[str, int], totals: dict[str, int], *, align: int, target: int
) -> dict[str, int]:
    """Round counts to multiples of `align` that add up to `target` multiples, by largest remainder.

    A layer narrower than `align` keeps all its neurons; every other keeps at least `align`.
    """
    wide = [block for block, total in totals.items() if total >= align]
    cap = {block: totals[block] // align for block in wide}
    units = {block: min(max(wanted[block] // align, 1), cap[block]) for block in wide}
    target -= len(totals) - len(wide)

    def remainder(block: str) -> int:
        return wanted[block] - units[block] * align

    while sum(units.values()) < target and (growing := [b for b in wide if units[b] < cap[b]]):
        units[max(growing, key=remainder)] += 1
    while sum(units.values()) > target and (shrinking := [b for b in wide if units[b] > 1]):
        units[min(shrinking, key=remainder)] -= 1
    return {block: units[block] * align if block in units else totals[block] for block in totals}


def _prune_ranks(
    unit_scores: _UnitScores, config: PruningConfig, notes: list[str]
) -> dict[str, KeptUnits]:
    """Choose PEFT modules first, then ranks over all remaining modules."""
    names = [
        name for name in unit_scores.scores.shape.linears if name in unit_scores.scores.modules
    ]
    scores, by_depth = unit_scores.of_modules(names), config.module_criterion == "depth"
    order = torch.arange(len(names), dtype=torch.float32) if by_depth else scores
    remaining = set(_top_k_indices(order, _keep_count(config.modules, len(names), minimum=1)))
    if not _keep_count(config.modules, len(names), minimum=0):
        notes.append("the minimum of 1 PEFT module is kept; by the ratio none would be")
    ranks = {name: unit_scores.of_ranks(name) for name in names}
    remaining_names = [name for index, name in enumerate(names) if index in remaining]
    all_ranks = torch.cat([ranks[name] for name in remaining_names])
    winners = set(_top_k_indices(all_ranks, _keep_count(config.ranks, len(all_ranks), minimum=1)))
    if not _keep_count(config.ranks, len(all_ranks), minimum=0):
        notes.append("the minimum of 1 PEFT rank is kept; by the ratio none would be")
    kept_units, start = {}, 0
    for index, name in enumerate(names):
        total = len(ranks[name])
        if index not in remaining:
            order_name = "in depth" if by_depth else f"by importance ({float(scores[index]):.3g})"
            reason = (
                f"the module is pruned: one of the {len(names) - len(remaining_names)} lowest "
                f"{order_name}"
            )
            kept_units[name] = KeptUnits(total=total, kept=(), reason=reason)
            continue
        kept = tuple(rank for rank in range(total) if start + rank in winners)
        start += total
        kept_units[name] = KeptUnits(
            total=total, kept=kept, reason=_rank_reason(scores[index], total, len(kept))
        )
        if not kept:
            notes.append(f"the PEFT module on {name} keeps none of its ranks and is pruned")
    return kept_units


def _rank_reason(importance: Tensor, total: int, kept: int) -> str:
    if kept == total:
        return f"all kept: importance {float(importance):.3g}"
    pruned = f"{total - kept} of {total} ranks are among the lowest of all modules"
    return f"{pruned}; module importance {float(importance):.3g}"
