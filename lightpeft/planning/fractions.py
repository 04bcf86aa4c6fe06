"""Choose the units of a plan from scores and fractions: exact counts, minimums, alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lightpeft.core.block_shape import KEPT_WHOLE, AttentionBlock
from lightpeft.core.config import PruningConfig
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.planning.layers import add_pruned, prune_layers, select_layers

# Criterion -> the one that says how many units each layer keeps if the scope is global. Energies of
# different layers can't be compared; Taylor scores can: they all estimate a change of the loss.
_COMPARED_BY = {"energy": "taylor"}
_ROUNDING = 0.05  # of all heads: rounding by more than that is told


def apply_fractions(scores: Scores, config: PruningConfig) -> PruningPlan:
    """Prune the fractions that the config says, as `make_plan` without a target.

    Raises:
        PlanError: layers are to be pruned, and none can be, or none with a PEFT module would stay.
    """
    config = resolve_scopes(config)
    notes: list[str] = []
    ranking = _draw_scores(scores, config.seed) if config.criterion == "random" else scores
    layers = prune_layers(ranking, config.layers, notes)
    kept = {path: units.kept for path, units in layers.items() if not units.is_complete}
    ranking = select_layers(ranking, kept)
    ranks = {name: len(scores.ranks[name]) for name in list_module_names(scores)}
    return PruningPlan(
        shape=scores.shape,
        fingerprint=scores.fingerprint,
        scores=scores.digest,
        settings=config.model_dump(exclude={"target"}),
        layers=layers,
        heads=add_pruned(prune_heads(ranking, config, notes), scores.shape.heads),
        neurons=add_pruned(prune_neurons(ranking, config, notes), scores.shape.neurons),
        ranks=add_pruned(prune_ranks(ranking, config, notes), ranks),
        notes=tuple(notes),
        peft_type=scores.peft_type,
    )


def resolve_scopes(config: PruningConfig) -> PruningConfig:
    """Return the config with the scopes that `uniform` stands for."""
    scopes = {"head_scope": "layer", "neuron_scope": "layer"}
    return config.model_copy(update=scopes) if config.uniform else config


def _draw_scores(scores: Scores, seed: int) -> Scores:
    """Return scores with the criterion `random`, and random importance of modules and ranks."""
    generator = torch.Generator().manual_seed(seed)

    def draw(sizes: Mapping[str, int]) -> dict[str, Tensor]:
        return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}

    ranks = {name: len(scores.ranks[name]) for name in list_module_names(scores)}
    return replace(
        scores,
        heads=scores.heads | {"random": draw(scores.shape.heads)},
        neurons=scores.neurons | {"random": draw(scores.shape.neurons)},
        modules=dict(zip(ranks, torch.rand(len(ranks), generator=generator).tolist(), strict=True)),
        ranks=draw(ranks),
        layers=draw({path: len(row) for path, row in scores.layers.items()}),
    )


def list_module_names(scores: Scores) -> list[str]:
    """Return the linears that have PEFT modules, in execution order."""
    return [name for name in scores.shape.linears if name in scores.modules]


def _keep_count(ratio: float, total: int, *, minimum: int) -> int:
    """Return how many of `total` to keep; the number to prune is rounded, halves up."""
    return max(min(minimum, total), total - math.floor(ratio * total + 0.5))


def _find_top_k(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the `count` highest scores; among equals the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return tuple(sorted(order.tolist()))


def _keep_highest(scores: Tensor, count: int, criterion: str) -> KeptUnits:
    total = len(scores)
    kept = _find_top_k(scores, count)
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


def prune_heads(scores: Scores, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    """Choose heads: KV groups, or query heads of each group, if any share keys."""
    blocks, criterion = scores.shape.attention_blocks, config.criterion
    whole = [block.path for block in blocks if block.head_count_rule == KEPT_WHOLE]
    if whole and config.heads:
        notes.append(
            f"{len(whole)} of {len(blocks)} attention blocks keep all heads, which can't "
            f"be pruned exactly (the first: {whole[0]})"
        )
    rows, compared = (
        {b.path: group_heads(b, scores.heads[name][b.path], config) for b in blocks}
        for name in (criterion, _COMPARED_BY.get(criterion, criterion))
    )
    prunable = {path: row for path, row in compared.items() if path not in whole}
    counts = dict.fromkeys(whole, 1) | _count_heads(prunable, config, notes, scores.shape.heads)
    return {
        block.path: _keep_highest(
            scores.heads[criterion][block.path], counts[block.path], criterion
        )
        if block.heads_per_kv_group == 1
        else _prune_grouped_heads(rows[block.path], counts[block.path], block.units, criterion)
        for block in blocks
    }


def group_heads(block: AttentionBlock, scores: Tensor, config: PruningConfig) -> Tensor:
    """Return a row of what a block prunes, heads or KV groups; or a row of heads per KV group.

    The only KV group can't be pruned, so its query heads are, whatever the granularity.
    """
    sharing = block.heads_per_kv_group
    rows = scores.reshape(-1, sharing)
    by_group = config.head_granularity == "kv_group" and block.units > sharing
    return rows.sum(dim=1)[None] if sharing == 1 or by_group else rows


def _count_heads(
    rows: dict[str, Tensor], config: PruningConfig, notes: list[str], heads: Mapping[str, int]
) -> dict[str, int]:
    """Return how many of each row every block keeps, at least one."""
    totals = {block: row.shape[1] for block, row in rows.items()}
    if config.head_scope == "layer":
        wanted = {b: _keep_count(config.heads, total, minimum=0) for b, total in totals.items()}
        counts, cause = {block: max(count, 1) for block, count in wanted.items()}, "its ratio"
        pruned = 1 - sum(counts.values()) / max(sum(totals.values()), 1)
        if all(wanted.values()) and abs(pruned - config.heads) > _ROUNDING:
            notes.append(
                f"{pruned:.1%} of the heads are pruned, not {config.heads:.1%}: each layer prunes "
                f"an integer number; head_scope 'global' comes closer"
            )
    else:
        # All rows of a block lose equally many: first the lowest of each row, as one.
        sums = {b: row.sort(dim=1, descending=True).values.sum(dim=0) for b, row in rows.items()}
        keep = _keep_count(config.heads, sum(totals.values()), minimum=len(totals))
        wanted, cause = _count_winners(sums, keep), "score"
        for row in sums.values():
            row[0] = torch.inf
        counts = _count_winners(sums, keep)
    for block in (block for block, count in wanted.items() if not count):
        unit = "KV group" if rows[block].numel() < heads[block] else "head"
        notes.append(f"{block} keeps the minimum of 1 {unit}; by {cause} it would keep none")
    return counts


def _count_winners(rows: Mapping[str, Tensor], keep: int) -> dict[str, int]:
    """Return how many of the `keep` highest scores over all rows each row has."""
    sizes = torch.tensor([len(row) for row in rows.values()])
    owner = torch.repeat_interleave(torch.arange(len(rows)), sizes)
    order = torch.sort(torch.cat([*rows.values()]), descending=True, stable=True).indices
    winners = owner[order[:keep]]
    return dict(zip(rows, winners.bincount(minlength=len(rows)).tolist(), strict=True))


def _prune_grouped_heads(rows: Tensor, count: int, total: int, criterion: str) -> KeptUnits:
    """Keep `count` of each row: of the query heads of every KV group, or of all groups in one."""
    groups, units = rows.shape
    chosen = [_find_top_k(row, count) for row in rows]
    if groups * units == total:
        kept = [group * units + head for group, heads in enumerate(chosen) for head in heads]
        description = f"{units - count} of {units} query heads of each KV group"
    else:
        sharing = total // units
        kept = [group * sharing + head for group in chosen[0] for head in range(sharing)]
        description = f"{units - count} of {units} KV groups"
    reason = "all kept" if count == units else f"{description} pruned, the lowest by {criterion}"
    return KeptUnits(total=total, kept=tuple(kept), reason=reason)


def prune_neurons(scores: Scores, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    """Choose neurons, over all layers or in each; those of experts are kept."""
    totals, criterion = scores.shape.neurons, config.criterion
    rows = {block: scores.neurons[criterion][block] for block in totals}
    if scores.shape.num_moe_layers and config.neurons:
        notes.append(
            f"the neurons of experts are kept, in {scores.shape.num_moe_layers} layers: their "
            f"weights are fused; the ratio is of the other neurons ({sum(totals.values())})"
        )
    compared = {
        block: scores.neurons[_COMPARED_BY.get(criterion, criterion)][block] for block in rows
    }
    counts = count_neurons(compared, config, notes)
    return {block: _keep_highest(row, counts[block], criterion) for block, row in rows.items()}


def count_neurons(
    rows: dict[str, Tensor], config: PruningConfig, notes: list[str]
) -> dict[str, int]:
    """Return how many neurons each layer keeps, by their scores and aligned."""
    totals, align = {block: len(row) for block, row in rows.items()}, config.align
    if not (rows and config.neurons):
        return totals
    if config.neuron_scope == "layer":
        wanted = {b: _keep_count(config.neurons, total, minimum=0) for b, total in totals.items()}
        target = sum(round(count / align) for count in wanted.values())
    else:
        keep = _keep_count(config.neurons, sum(totals.values()), minimum=0)
        wanted = _count_winners(rows, keep)
        target = round(keep / align)
    for block, count in wanted.items():
        if count < min(align, totals[block]):
            notes.append(
                f"{block} keeps the minimum of {min(align, totals[block])} neurons; "
                f"by score it would keep {count}"
            )
    return _round_to_multiple(wanted, totals, align=align, target=target)


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

    def compute_remainder(block: str) -> int:
        return wanted[block] - units[block] * align

    while sum(units.values()) < target and (growing := [b for b in wide if units[b] < cap[b]]):
        units[max(growing, key=compute_remainder)] += 1
    while sum(units.values()) > target and (shrinking := [b for b in wide if units[b] > 1]):
        units[min(shrinking, key=compute_remainder)] -= 1
    return {block: units[block] * align if block in units else totals[block] for block in totals}


def prune_ranks(scores: Scores, config: PruningConfig, notes: list[str]) -> dict[str, KeptUnits]:
    """Choose PEFT modules first, then ranks over all remaining modules."""
    names, by_depth = list_module_names(scores), config.module_criterion == "depth"
    order = [float(index) if by_depth else scores.modules[n] for index, n in enumerate(names)]
    count = _keep_count(config.modules, len(names), minimum=1)
    remaining = [names[index] for index in _find_top_k(torch.tensor(order), count)]
    if not _keep_count(config.modules, len(names), minimum=0):
        notes.append("the minimum of 1 PEFT module is kept; by the ratio none would be")
    all_ranks = torch.cat([scores.ranks[name] for name in remaining])
    winners = set(_find_top_k(all_ranks, _keep_count(config.ranks, len(all_ranks), minimum=1)))
    if not _keep_count(config.ranks, len(all_ranks), minimum=0):
        notes.append("the minimum of 1 PEFT rank is kept; by the ratio none would be")
    kept_units, start = {}, 0
    for name in names:
        total, importance = len(scores.ranks[name]), f"{scores.modules[name]:.3g}"
        kept: tuple[int, ...] = ()
        if name in remaining:
            kept = tuple(rank for rank in range(total) if start + rank in winners)
            start += total
            reason = f"{total - len(kept)} of {total} ranks are among the lowest of all modules; "
            reason += f"module importance {importance}"
            if len(kept) == total:
                reason = f"all kept: importance {importance}"
            if not kept:
                notes.append(f"the PEFT module on {name} keeps none of its ranks and is pruned")
        else:
            order_name = "in depth" if by_depth else f"by importance ({importance})"
            reason = (
                f"the module is pruned: one of the {len(names) - len(remaining)} lowest "
                f"{order_name}"
            )
        kept_units[name] = KeptUnits(total=total, kept=kept, reason=reason)
    return kept_units
