"""From scores and ratios to a plan: exact counts, floors, alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
    """
    notes: list[str] = []
    source = _Source(scores, config.criterion, config.seed)
    return PruningPlan(
        shape=scores.shape,
        fingerprint=scores.fingerprint,
        scores=scores.digest,
        settings=config.model_dump(),
        heads=_cut_heads(source, config, notes),
        neurons=_cut_neurons(source, config, notes),
        ranks=_cut_ranks(source, config, notes),
        notes=tuple(notes),
    )


class _Source:
    """The scores under one criterion; `random` draws them, block after block, from one seed."""

    def __init__(self, scores: Scores, criterion: str, seed: int) -> None:
        self.scores, self.criterion = scores, criterion
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, group: str, block: str) -> Tensor:
        known: Mapping[str, Any] = getattr(self.scores, group)
        if self.criterion == "random":
            total = getattr(self.scores.shape, group)[block]
            return torch.rand(total, generator=self._generator)
        return known[self.criterion][block]  # type: ignore[no-any-return]

    def modules(self, names: list[str]) -> Tensor:
        if self.criterion == "random":
            return torch.rand(len(names), generator=self._generator)
        return torch.tensor([self.scores.modules[name] for name in names])

    def ranks(self, module: str) -> Tensor:
        if self.criterion == "random":
            return torch.rand(len(self.scores.ranks[module]), generator=self._generator)
        return self.scores.ranks[module]


def _keep_count(ratio: float, total: int, *, floor: int) -> int:
    """How many of `total` stay: the cut is rounded to the nearest, halves up."""
    return max(min(floor, total), total - math.floor(ratio * total + 0.5))


def _top(scores: Tensor, count: int) -> tuple[int, ...]:
    """Indices of the `count` highest; among equals the lower index stays."""
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return tuple(sorted(order.tolist()))


def _cut(scores: Tensor, count: int, criterion: str) -> KeptUnits:
    total = len(scores)
    kept = _top(scores, count)
    if count == total:
        return KeptUnits(total=total, kept=kept, reason="kept whole")
    gone = torch.ones(total, dtype=torch.bool)
    gone[list(kept)] = False
    reason = (
        f"{total - count} of {total} cut, the lowest by {criterion}: "
        f"up to {float(scores[gone].max()):.3g}; kept from {float(scores[list(kept)].min()):.3g}"
    )
    return KeptUnits(total=total, kept=kept, reason=reason)


def _cut_heads(source: _Source, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    """Prune heads of each layer; where heads share keys and values, KV groups or heads of each."""
    cuts, shape = {}, source.scores.shape
    for attention in shape.attention_blocks:
        block, total, sharing = attention.path, attention.units, attention.heads_per_kv_group
        scores = source.of("heads", block)
        rows, unit = scores.reshape(-1, sharing), "head"
        # A lone group can't go, so its query heads are the unit whatever was asked.
        if sharing == 1 or (config.head_granularity == "kv_group" and total > sharing):
            rows, unit = rows.sum(dim=1)[None], "head" if sharing == 1 else "KV group"
        count = _keep_count(config.heads, rows.shape[1], floor=1)
        if count > _keep_count(config.heads, rows.shape[1], floor=0):
            notes.append(f"{block} keeps the floor of 1 {unit}; by its ratio it would keep none")
        if sharing == 1:
            cuts[block] = _cut(scores, count, source.criterion)
        else:
            cuts[block] = _cut_shared(rows, count, total, source.criterion)
    return cuts


def _cut_shared(rows: Tensor, count: int, total: int, criterion: str) -> KeptUnits:
    """Keep `count` of each row: of the query heads of every KV group, or of all groups in one."""
    groups, units = rows.shape
    chosen = [_top(row, count) for row in rows]
    if groups * units == total:
        kept = [group * units + head for group, heads in enumerate(chosen) for head in heads]
        what = f"{units - count} of {units} query heads of each KV group"
    else:
        sharing = total // units
        kept = [group * sharing + head for group in chosen[0] for head in range(sharing)]
        what = f"{units - count} of {units} KV groups"
    reason = "kept whole" if count == units else f"{what} cut, the lowest by {criterion}"
    return KeptUnits(total=total, kept=tuple(kept), reason=reason)


def _cut_neurons(source: _Source, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    shape = source.scores.shape
    totals = shape.neurons
    if shape.num_moe_layers and config.neurons:
        notes.append(
            f"the neurons of the experts stay, in {shape.num_moe_layers} layers: their weights are "
            f"fused, and the ratio is of the other neurons ({sum(totals.values())})"
        )
    if not totals:
        return {}
    scores = {block: source.of("neurons", block) for block in totals}
    ratio, align = config.neurons, config.align
    if ratio == 0:
        return {block: _cut(row, len(row), source.criterion) for block, row in scores.items()}
    if config.neuron_scope == "layer":
        wanted = {block: _keep_count(ratio, total, floor=0) for block, total in totals.items()}
        target = sum(round(count / align) for count in wanted.values())
    else:
        keep = _keep_count(ratio, sum(totals.values()), floor=0)
        owner = torch.repeat_interleave(torch.arange(len(totals)), torch.tensor([*totals.values()]))
        winners = owner[list(_top(torch.cat([*scores.values()]), keep))]
        wanted = dict(zip(totals, winners.bincount(minlength=len(totals)).tolist(), strict=True))
        target = round(keep / align)
    for block, count in wanted.items():
        if count < min(align, totals[block]):
            notes.append(
                f"{block} keeps the floor of {min(align, totals[block])} neurons; "
                f"by score it would keep {count}"
            )
    counts = _aligned(wanted, totals, align=align, target=target)
    return {block: _cut(row, counts[block], source.criterion) for block, row in scores.items()}


def _aligned(
    wanted: dict[str, int], totals: dict[str, int], *, align: int, target: int
) -> dict[str, int]:
    """Round counts to multiples of `align` that add up to `target` multiples, by largest remainder.

    A layer narrower than `align` keeps all its neurons; every other keeps at least `align`.
    """
    wide = [block for block, total in totals.items() if total >= align]
    cap = {block: totals[block] // align for block in wide}
    units = {block: min(max(wanted[block] // align, 1), cap[block]) for block in wide}
    target -= len(totals) - len(wide)

    def rest(block: str) -> int:
        return wanted[block] - units[block] * align

    while sum(units.values()) < target and (open_ := [b for b in wide if units[b] < cap[b]]):
        units[max(open_, key=rest)] += 1
    while sum(units.values()) > target and (open_ := [b for b in wide if units[b] > 1]):
        units[min(open_, key=rest)] -= 1
    return {block: units[block] * align if block in units else totals[block] for block in totals}


def _cut_ranks(source: _Source, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    """Prune modules first, then single ranks over all modules that stay."""
    names = [name for name in source.scores.shape.linears if name in source.scores.modules]
    scores, by_depth = source.modules(names), config.module_criterion == "depth"
    order = torch.arange(len(names), dtype=torch.float32) if by_depth else scores
    surviving = set(_top(order, _keep_count(config.modules, len(names), floor=1)))
    if not _keep_count(config.modules, len(names), floor=0):
        notes.append("one PEFT module stays as a floor; by the ratio none would")
    ranks = {name: source.ranks(name) for name in names}
    alive = [name for index, name in enumerate(names) if index in surviving]
    every = torch.cat([ranks[name] for name in alive])
    winners = set(_top(every, _keep_count(config.ranks, len(every), floor=1)))
    if not _keep_count(config.ranks, len(every), floor=0):
        notes.append("one PEFT rank stays as a floor; by the ratio none would")
    cuts, start = {}, 0
    for index, name in enumerate(names):
        total = len(ranks[name])
        if index not in surviving:
            place = "in depth" if by_depth else f"by importance ({float(scores[index]):.3g})"
            reason = f"the module goes: one of the {len(names) - len(alive)} lowest {place}"
            cuts[name] = KeptUnits(total=total, kept=(), reason=reason)
            continue
        kept = tuple(rank for rank in range(total) if start + rank in winners)
        start += total
        cuts[name] = KeptUnits(
            total=total, kept=kept, reason=_rank_reason(scores[index], total, len(kept))
        )
        if not kept:
            notes.append(f"the PEFT module on {name} lost all its ranks and goes")
    return cuts


def _rank_reason(importance: Tensor, total: int, kept: int) -> str:
    if kept == total:
        return f"kept whole: importance {float(importance):.3g}"
    gone = f"{total - kept} of {total} ranks are among the lowest of all modules"
    return f"{gone}; module importance {float(importance):.3g}"
