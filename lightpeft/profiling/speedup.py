"""Arithmetic of a comparison: spread, paired speed-ups, and when estimating has paid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

BASELINE = "vanilla"


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def compute_speedup(baseline: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How many times faster than the baseline, round by round: what slows a round hits both."""
    return quartiles([slow / fast for slow, fast in zip(baseline, other, strict=True)])


def break_even_steps(
    *, estimate_step: float, steps: int, pruned: float, vanilla: float
) -> int | None:
    """Steps in all, estimation counted, from which pruning takes no longer than not to prune.

    Estimation and pruned training take ``steps * estimate_step + (n - steps) * pruned`` seconds,
    unpruned training ``n * vanilla``; equal at
    ``n = steps * (estimate_step - pruned) / (vanilla - pruned)``.

    Args:
        estimate_step: seconds of a step of estimation.
        steps: of estimation.
        pruned: seconds of a training step of the pruned model.
        vanilla: seconds of a training step of the unpruned one.

    Returns:
        n, rounded up, or None where the pruned model is no faster.
    """
    if pruned >= vanilla:
        return None
    return max(steps, math.ceil(steps * (estimate_step - pruned) / (vanilla - pruned)))


def estimation_cost(
    estimate: Mapping[str, Any], finetune: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | int | None]:
    """What the estimation cost: seconds, share of all training time, and when it has paid.

    The share is of `light`, or of the first other method where `light` is not compared.

    Args:
        estimate: `seconds` and `steps` of the estimation.
        finetune: method -> the same of its fine-tuning, which starts where estimation ends.
    """
    pruned = "light" if "light" in finetune else next(iter(sorted(finetune, key=BASELINE.__eq__)))
    per_step = {name: run["seconds"] / run["steps"] for name, run in finetune.items()}
    seconds, steps = estimate["seconds"], estimate["steps"]
    return {
        "seconds": seconds,
        "share": seconds / (seconds + finetune[pruned]["seconds"]),
        "break_even_steps": break_even_steps(
            estimate_step=seconds / steps,
            steps=steps,
            pruned=per_step[pruned],
            vanilla=per_step[BASELINE],
        ),
    }
