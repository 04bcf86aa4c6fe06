"""What fractions of heads, neurons and PEFT modules keep of a model, and of its scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lightpeft.core.config import PruningConfig
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.layers import drop_layers, find_new_path
from lightpeft.core.scores import Scores
from lightpeft.planning.fractions import prune_heads, prune_neurons, prune_ranks
from lightpeft.planning.layers import prune_layers, select_layers


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one fraction of one kind keeps: units or ranks by path, and the sum of their scores."""

    counts: Mapping[str, int]
    kv_groups: Mapping[str, int]
    scores: float


class LayerLevel:
    """A model without some of its layers: what each fraction of the other kinds keeps of it."""

    def __init__(self, scores: Scores, config: PruningConfig, fraction: float) -> None:
        layers = prune_layers(scores, fraction, [])
        self._gone = {path: x.kept for path, x in layers.items() if not x.is_complete}
        self.scores, self.config, self.fraction = (
            select_layers(scores, self._gone),
            config.model_copy(update={"layers": fraction, "criterion": "taylor"}),
            fraction,
        )
        self.shape = drop_layers(scores.shape, self._gone) if self._gone else scores.shape
        self.kept_scores = sum_kept(scores.layers, layers)
        self._cache: dict[tuple[str, float], Kept] = {}

    def keep(self, kind: str, fraction: float) -> Kept:
        """Return what stays of heads, neurons or modules."""
        if (kind, fraction) not in self._cache:
            prune: Callable[..., dict[str, KeptUnits]]
            prune, scored = {
                "heads": (prune_heads, self.scores.heads["taylor"]),
                "neurons": (prune_neurons, self.scores.neurons["taylor"]),
                "modules": (prune_ranks, self.scores.ranks),
            }[kind]
            units = prune(self.scores, self.config.model_copy(update={kind: fraction}), [])
            self._cache[kind, fraction] = Kept(
                counts={self._rename(path): len(x.kept) for path, x in units.items()},
                kv_groups=self._count_kv_groups(units) if kind == "heads" else {},
                scores=sum_kept(scored, units),
            )
        return self._cache[kind, fraction]

    def _count_kv_groups(self, units: Mapping[str, KeptUnits]) -> dict[str, int]:
        sizes = {block.path: block.heads_per_kv_group for block in self.scores.shape.blocks}
        return {
            self._rename(path): len({head // sizes[path] for head in x.kept})
            for path, x in units.items()
        }

    def _rename(self, path: str) -> str:
        return str(find_new_path(path, self._gone))


def sum_kept(scores: Mapping[str, Tensor], units: Mapping[str, KeptUnits]) -> float:
    """Return the sum of the scores of kept units; all paths without scores are left out."""
    return sum(
        float(row[list(units[path].kept)].double().sum()) if path in units else 0.0
        for path, row in scores.items()
    )
