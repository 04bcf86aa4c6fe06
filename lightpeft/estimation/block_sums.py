"""Sums over the steps of a training, of which the oldest can be dropped."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class BlockSums:
    """Sums several tensors over steps, in blocks of consecutive steps; the oldest can be dropped.

    Where the last step is not known beforehand, the second half of the steps is that of the blocks.
    A single block costs one tensor each, as a plain sum does.
    """

    def __init__(self, zeros: Iterable[Tensor]) -> None:
        """Start the first block; `zeros` give the shapes, dtypes and devices, and are changed."""
        self._blocks = [list(zeros)]
        self._steps = [0]
        self._dropped = 0

    def add(self, values: Iterable[Tensor]) -> None:
        """Add the values of one step to the latest block."""
        self._steps[-1] += 1
        for total, value in zip(self._blocks[-1], values, strict=True):
            total += value

    def start_block(self) -> None:
        """Start the next block."""
        self._blocks.append([torch.zeros_like(total) for total in self._blocks[-1]])
        self._steps.append(0)

    def drop_before(self, block: int) -> None:
        """Drop all blocks before one, counted from 0; the latest is never dropped."""
        count = max(0, min(block - self._dropped, len(self._blocks) - 1))
        del self._blocks[:count], self._steps[:count]
        self._dropped += count

    @property
    def steps(self) -> int:
        """Number of steps in the blocks that are left."""
        return sum(self._steps)

    def compute_totals(self) -> list[Tensor]:
        """Return the sum of each tensor over the blocks that are left; may be a block's own."""
        first, *others = self._blocks
        if not others:
            return first
        totals = [total.clone() for total in first]
        for block in others:
            for total, value in zip(totals, block, strict=True):
                total += value
        return totals
