"""Sums over the real tokens of the counted steps, taken by hooks while the model trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from lightpeft.core.errors import ScoresError, Term
from lightpeft.estimation.block_sums import BlockSums
from lightpeft.estimation.importance import find_real_tokens
from lightpeft.estimation.processes import sum_over_processes


class TokenSums(ExitStack):
    """Sums values per module over real tokens; a context manager.

    Subclasses register hooks that call `add`. The mean is over tokens, not over batches, so that it
    does not depend on how rows are batched. Call `start_step` before a forward pass and
    `finish_step` after its backward pass; what runs in between is summed, and nothing else, so that
    steps that don't count cost nothing.

    Attributes:
        sums: of the counted steps; per module, those of its values and the number of tokens.
    """

    _what = "output"

    def __init__(self, paths: Sequence[str], sizes: Sequence[int], devices: Sequence[Any]) -> None:
        super().__init__()
        self._paths = list(paths)
        self._batch: Mapping[str, Any] | None = None  # of a step that counts
        # values, and the number of tokens, of this step
        self._current = [torch.zeros(n + 1, device=d) for n, d in zip(sizes, devices, strict=True)]
        self.sums = BlockSums([torch.zeros_like(row) for row in self._current])
        first = self._current[0].device if self._current else None
        self._first_bad = torch.full((len(self._paths),), -1, dtype=torch.long, device=first)

    def start_step(self, batch: Mapping[str, Any]) -> None:
        """Start a step with a batch, whose attention masks say which tokens are real."""
        self._batch = batch
        for row in self._current:
            row.zero_()

    def finish_step(self, step: int) -> None:
        """Add the values of a step to the sums."""
        self._batch = None
        if not self._current:
            return
        finite = torch.stack([r.isfinite().all().to(self._first_bad.device) for r in self._current])
        self._first_bad = torch.where(~finite & (self._first_bad < 0), step, self._first_bad)
        self.sums.add(self._current)

    def raise_if_not_finite(self) -> None:
        """Check all values so far, with a transfer to the CPU.

        Raises:
            ScoresError: one is not a number; names the first step and module.
        """
        bad = [(step, index) for index, step in enumerate(self._first_bad.tolist()) if step >= 0]
        if bad:
            step, index = min(bad)
            raise ScoresError(
                f"step {step}: the {self._what} of {self._paths[index]} is not a number; "
                f"{Term.LOWER_LR}"
            )

    def compute_means(self) -> dict[str, Tensor]:
        """Return path of a module -> means over the tokens of all processes; 0 without tokens."""
        totals = map(sum_over_processes, self.sums.compute_totals())
        return {
            path: total[:-1] / total[-1].clamp_min(1)
            for path, total in zip(self._paths, totals, strict=True)
        }

    @property
    def is_counting(self) -> bool:
        """Whether a step is running; hooks return at once if not."""
        return self._batch is not None

    def find_real(self, mask_name: str, vectors: Tensor) -> Tensor | None:
        """Return which vectors are of real tokens of the current batch, or None: all."""
        return find_real_tokens((self._batch or {}).get(mask_name), vectors)

    def add(self, index: int, values: Tensor, tokens: Tensor | int) -> None:
        """Add values that are summed over so many tokens to those of a module.

        A module that runs several times per step counts each time. Activation checkpointing runs
        it twice, which doubles values and tokens.
        """
        self._current[index][:-1] += values
        self._current[index][-1] += tokens
