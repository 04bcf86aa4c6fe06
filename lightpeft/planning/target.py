"""Search the fractions to prune for a target: the highest kept importance that reaches it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightpeft.core.block_shape import KEPT_WHOLE, find_layer
from lightpeft.core.config import SEARCHED, PruningConfig
from lightpeft.core.errors import PlanError
from lightpeft.core.scores import Scores
from lightpeft.core.shape import UnitCounts
from lightpeft.planning.cost_model import CostModel
from lightpeft.planning.fractions import (
    group_heads,
    list_module_names,
    resolve_scopes,
)
from lightpeft.planning.layer_level import LayerLevel

Fractions = dict[str, float]  # of each of `SEARCHED`

_LEVELS = 12  # of layers, heads and modules that are tried, at most
_NEURON_STEPS = 128
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class TargetChoice:
    """Fractions that reach a target.

    Attributes:
        config: with these fractions, and without the target.
        importance: mean over layers, heads, neurons and ranks of the fraction of the scores kept.
    """

    config: PruningConfig
    importance: float


def find_fractions(scores: Scores, config: PruningConfig, cost_model: CostModel) -> TargetChoice:
    """Find the fractions of layers, heads, neurons and modules that reach `config.target`.

    Of all combinations that reach it by the cost model, take the one that keeps most importance:
    the mean over layers, heads, neurons and ranks of the fraction of the kind's scores that is
    kept. Scores of heads, neurons and ranks are first-order estimates of how the loss changes when
    a unit is removed (Molchanov et al., arXiv:1611.06440), so that they add up within a kind.
    Over kinds they are compared as fractions: a sum of absolute values overestimates what removing
    many small units does, by another factor for 8 heads than for 3,000 neurons. A layer loses its
    own score and those of all that is in it. Layers, heads and modules are tried at up to 12
    levels each, for which the smallest sufficient fraction of neurons is found by bisection.

    The search goes by Taylor scores, whatever `config.criterion` says, so that plans by another
    criterion prune as much. Fractions that are given, and that of ranks, stay as they are.

    Args:
        scores: from `estimate`.
        config: with a target; fractions that were not given are searched.
        cost_model: predicts what the target is set on.

    Raises:
        PlanError: the target can't be reached; names the best that can.
    """
    assert config.target is not None
    search = _Search(scores, resolve_scopes(config), cost_model)
    best = search.run()
    if best is None:
        raise PlanError(search.describe_best_possible())
    update: dict[str, Any] = {**best[0], "target": None}
    return TargetChoice(config=config.model_copy(update=update), importance=best[1])


class _Search:
    """The search for one target over one model's scores."""

    def __init__(self, scores: Scores, config: PruningConfig, cost_model: CostModel) -> None:
        assert config.target is not None
        self._scores, self._config, self._cost_model = scores, config, cost_model
        self._target = config.target
        self._costs: dict[tuple[float, ...], float] = {}
        self._limit = 1 / self._target.value if self._target.is_speedup else self._target.value
        ranks = {name: len(row) for name, row in scores.ranks.items()}
        unpruned = scores.shape.count_unpruned(ranks, peft_type=scores.peft_type)
        self._before = cost_model.compute(self._target.quantity, scores.shape, unpruned)
        groups = {
            "layers": scores.layers,
            "heads": scores.heads["taylor"],
            "neurons": scores.neurons["taylor"],
            "modules": scores.ranks,
        }
        sums = {
            kind: sum(float(x.double().sum()) for x in rows.values())
            for kind, rows in groups.items()
        }
        self._totals = {kind: total for kind, total in sums.items() if total}

    def run(self) -> tuple[Fractions, float] | None:
        """Return fractions and the importance that they keep; None: the target is out of reach."""
        best: tuple[Fractions, float] | None = None
        for level in self._list_layer_levels():
            neurons = self._list_fractions("neurons", level)
            for modules in self._list_fractions("modules", level):
                last = len(neurons) - 1
                for heads in self._list_fractions("heads", level):
                    fixed = {"layers": level.fraction, "heads": heads, "modules": modules}
                    if best and self._measure(level, fixed | {"neurons": neurons[0]}) <= best[1]:
                        continue  # not even with all neurons
                    index = self._bisect(level, fixed, neurons, last)
                    if index is None:
                        continue
                    last = index  # with fewer heads, no more neurons have to go
                    fractions = fixed | {"neurons": neurons[index]}
                    importance = self._measure(level, fractions)
                    if best is None or importance > best[1]:
                        best = fractions, importance
        return best

    def describe_best_possible(self) -> str:
        """Return the error of a target out of reach, with the best that can be reached."""
        costs = []
        for level in self._list_layer_levels():
            fractions = {kind: self._list_fractions(kind, level)[-1] for kind in SEARCHED[1:]}
            costs.append(self._compute_cost(level, fractions))
        target, lowest = self._target, min(costs)
        allowed = (
            f"at most {math.floor(100 / lowest) / 100:g}"
            if target.is_speedup
            else f"at least {math.ceil(100 * lowest) / 100:g}"
        )
        given = [kind for kind in SEARCHED if kind in self._config.model_fields_set]
        because = f" with {', '.join(given)} as given" if given else ""
        return (
            f"target.{target.quantity} must be {allowed}, the best that pruning reaches{because}, "
            f"got {target.value:g}"
        )

    def _bisect(
        self, level: LayerLevel, fixed: Fractions, neurons: list[float], last: int
    ) -> int | None:
        """Return the first fraction of neurons, up to the last, that reaches the target."""

        def reaches(index: int) -> bool:
            cost = self._compute_cost(level, fixed | {"neurons": neurons[index]})
            return cost <= self._limit + _ROUNDING

        low, high = 0, last
        if not reaches(high):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle + 1, high)
        return low

    def _measure(self, level: LayerLevel, fractions: Fractions) -> float:
        """Return the importance that fractions keep."""
        kept = {kind: level.keep(kind, fractions[kind]).scores for kind in SEARCHED[1:]}
        kept["layers"] = level.kept_scores
        parts = [kept[kind] / total for kind, total in self._totals.items()]
        return sum(parts) / max(len(parts), 1)

    def _compute_cost(self, level: LayerLevel, fractions: Fractions) -> float:
        """Return the cost that is left, as a fraction of the unpruned model's.

        Each block has its own part of the cost, which depends on its units and on where PEFT
        modules are: what heads save and what neurons save adds up.
        """
        heads, neurons, modules = (fractions[kind] for kind in SEARCHED[1:])
        parts = ((heads, 0.0), (0.0, neurons), (0.0, 0.0))
        only_heads, only_neurons, neither = (
            self._compute_part(level, {"heads": h, "neurons": n, "modules": modules})
            for h, n in parts
        )
        return (only_heads + only_neurons - neither) / self._before

    def _compute_part(self, level: LayerLevel, fractions: Fractions) -> float:
        key = (level.fraction, *fractions.values())
        if key not in self._costs:
            heads, neurons, modules = (level.keep(kind, x) for kind, x in fractions.items())
            counts = UnitCounts(
                units={**heads.counts, **neurons.counts},
                ranks=modules.counts,
                kv_groups=heads.kv_groups,
                peft_type=self._scores.peft_type,
            )
            quantity = self._target.quantity
            self._costs[key] = self._cost_model.compute(quantity, level.shape, counts)
        return self._costs[key]

    def _list_layer_levels(self) -> Iterator[LayerLevel]:
        """Yield the model without layers pruned first, then with more and more."""
        if "layers" in self._config.model_fields_set:
            yield LayerLevel(self._scores, self._config, self._config.layers)
            return
        prunable = [x for x in self._scores.shape.stacks if x.prunable]
        depth = max((len(x.prunable) for x in prunable), default=1)
        total = max((x.layers for x in prunable), default=1)
        for n in _spread(min(depth + 1, total), _LEVELS):
            try:
                level = LayerLevel(self._scores, self._config, n / total)
            except PlanError:  # all layers with PEFT modules would be pruned
                return
            yield level

    def _list_fractions(self, kind: str, level: LayerLevel) -> list[float]:
        """Return the fractions of a kind that are tried, ascending."""
        if kind in self._config.model_fields_set:
            return [float(getattr(self._config, kind))]
        if kind == "neurons":
            return [step / _NEURON_STEPS for step in range(_NEURON_STEPS)]
        if kind == "heads":
            rows = [
                group_heads(block, level.scores.heads["taylor"][block.path], self._config).shape[1]
                for block in level.scores.shape.attention_blocks
                if block.head_count_rule != KEPT_WHOLE
            ]
            width = max(rows, default=1)
            return [n / width for n in _spread(width, _LEVELS)]
        names = list_module_names(level.scores)
        starts = [
            n for n, x in enumerate(names) if not n or find_layer(x) != find_layer(names[n - 1])
        ]
        return [starts[n] / len(names) for n in _spread(len(starts), _LEVELS)]


def _spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the numbers below `count`, evenly, the first and the last included."""
    if count <= most:
        return list(range(count))
    return [round(n * (count - 1) / (most - 1)) for n in range(most)]
