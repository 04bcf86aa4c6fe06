"""Stop the estimation when the units that would be pruned no longer change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightpeft.core.config import StopConfig
from lightpeft.core.scores import OVERLAP_COLUMNS

CHECK_EVERY = 10  # steps
BLOCK = CHECK_EVERY // 2  # steps; so that half of the steps at a check are a number of blocks
_FRACTION = 1 / 3  # of heads and of neurons: the default for encoders
_NONE = torch.zeros(0, dtype=torch.bool)


class StabilityCheck:
    """Compares the units that would be pruned with those at the check before.

    Light-PEFT has a fixed number of steps. The compared units are a third of the heads of each
    block and a third of all neurons, of the lowest Taylor scores, whatever will be pruned: so other
    pruning needs no other estimation.
    """

    def __init__(self, stop: StopConfig) -> None:
        self._stop = stop
        self._pruned: list[Tensor] = []
        self._stable_checks = 0

    def check(self, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> dict[str, float]:
        """Compare with the check before, and return the overlaps under `OVERLAP_COLUMNS`.

        An overlap is the fraction of the units to prune now that were to be pruned before, 1 where
        there are none; at the first check there is nothing to compare with, and it is empty.

        Args:
            heads: Taylor scores of each attention block.
            neurons: of each feed-forward block.
        """
        before = self._pruned
        self._pruned = [
            torch.cat([_NONE, *map(mark_lowest, heads)]),
            mark_lowest(torch.cat([_NONE, *(row.cpu() for row in neurons)])),
        ]
        if not before:
            return {}
        overlaps = [_compute_overlap(*pair) for pair in zip(self._pruned, before, strict=True)]
        is_stable = min(overlaps) >= self._stop.stable
        self._stable_checks = self._stable_checks + 1 if is_stable else 0
        return dict(zip(OVERLAP_COLUMNS, overlaps, strict=True))

    @property
    def is_stable(self) -> bool:
        """Whether the latest checks, as many as `patience`, found the same units."""
        return self._stable_checks >= self._stop.patience


def mark_lowest(scores: Tensor) -> Tensor:
    """Return which third of the scores is lowest; among equals, higher indices are lower."""
    order = torch.sort(scores.cpu(), descending=True, stable=True).indices
    marked = torch.zeros(len(scores), dtype=torch.bool)
    marked[order[len(scores) - round(_FRACTION * len(scores)) :]] = True
    return marked


def _compute_overlap(now: Tensor, before: Tensor) -> float:
    total = int(now.sum())
    return int((now & before).sum()) / total if total else 1.0
