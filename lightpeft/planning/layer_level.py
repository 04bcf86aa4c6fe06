"""What fractions of heads, neurons and PEFT modules keep of a model, and of its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from lightpeft.core.config import PruningConfig
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.layers import drop_layers, find_new_path
from lightpeft.core.scores import Scores
from lightpeft.planning.fractions import count_neurons, prune_heads, prune_ranks
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
        # Of each feed-forward block: the sum of its so many highest scores.
        self._highest = {
            path: pad(row.double().sort(descending=True).values.cumsum(0), (1, 0))
            for path, row in self.scores.neurons["taylor"].items()
        }
        self._cache: dict[tuple[str, float], Kept] = {}

    def keep(self, kind: str, fraction: float) -> Kept:
        """Return what stays of heads, neurons or modules."""
        if (kind, fraction) not in self._cache:
            config = self.config.model_copy(update={kind: fraction})
            keep = self._keep_neurons if kind == "neurons" else self._keep_units
            self._cache[kind, fraction] = keep(kind, config)
        return self._cache[kind, fraction]

    def _keep_units(self, kind: str, config: PruningConfig) -> Kept:
        prune, scored = {
            "heads": (prune_heads, self.scores.heads["taylor"]),
            "modules": (prune_ranks, self.scores.ranks),
        }[kind]
        units = prune(self.scores, config, [])
        return Kept(
            counts={self._rename(path): len(x.kept) for path, x in units.items()},
            kv_groups=self._count_kv_groups(units) if kind == "heads" else {},
            scores=sum_kept(scored, units),
        )

    def _keep_neurons(self, kind: str, config: PruningConfig) -> Kept:
        """Count without naming the neurons, which takes long where there are many."""
        counts = count_neurons(self.scores.neurons["taylor"], config, [])
        return Kept(
            counts={self._rename(path): count for path, count in counts.items()},
            kv_groups={},
            scores=sum(float(self._highest[path][count]) for path, count in counts.items()),
        )

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
