"""Arithmetic of a comparison: quartiles, paired speed-ups, break-even point of the estimation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from lightpeft.core.benchmark_result import EstimationCost

BASELINE = "vanilla"


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile."""

    q1: float
    median: float
    q3: float


class RunTime(Protocol):
    """Wall time of an estimation or a fine-tuning."""

    @property
    def seconds(self) -> float:
        """Of all steps."""

    @property
    def steps(self) -> int:
        """Number of steps."""


def compute_quartiles(values: Sequence[float]) -> Quartiles:
    """Return quartiles, interpolated between the sorted values."""
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def compute_speedup(baseline: Sequence[float], other: Sequence[float]) -> Quartiles:
    """Return how many times faster than the baseline, as quartiles over the rounds.

    The ratio is taken within each round: what slows the machine down for a round slows both.

    Args:
        baseline: seconds of each round.
        other: the same, of the model that is compared.
    """
    return compute_quartiles([slow / fast for slow, fast in zip(baseline, other, strict=True)])


def break_even_steps(
    *, estimate_step: float, steps: int, pruned: float, vanilla: float
) -> int | None:
    """Return the number of training steps from which pruning takes no longer than not pruning.

    The steps of the estimation count as training steps. Estimation and pruned training take
    ``steps * estimate_step + (n - steps) * pruned`` seconds, unpruned training ``n * vanilla``;
    they are equal at ``n = steps * (estimate_step - pruned) / (vanilla - pruned)``.

    Args:
        estimate_step: seconds of an estimation step.
        steps: number of estimation steps.
        pruned: seconds of a training step of the pruned model.
        vanilla: seconds of a training step of the unpruned model.

    Returns:
        n, rounded up and at least `steps`; None if the pruned model is no faster.
    """
    if pruned >= vanilla:
        return None
    return max(steps, math.ceil(steps * (estimate_step - pruned) / (vanilla - pruned)))


def compute_estimation_cost(estimate: RunTime, finetune: Mapping[str, RunTime]) -> EstimationCost:
    """Return what the estimation cost: seconds, fraction of the training time, break-even point.

    The fraction is of `light`'s training, or of the first other pruned method's where `light` is
    not compared.

    Args:
        estimate: time of the estimation.
        finetune: method -> time of its fine-tuning, which starts where the estimation ends;
            `vanilla` is among them.
    """
    pruned_methods = [method for method in finetune if method != BASELINE]
    pruned = "light" if "light" in pruned_methods else next(iter(pruned_methods), BASELINE)
    step_seconds = {method: run.seconds / run.steps for method, run in finetune.items()}
    return EstimationCost(
        seconds=estimate.seconds,
        training_fraction=estimate.seconds / (estimate.seconds + finetune[pruned].seconds),
        break_even_steps=break_even_steps(
            estimate_step=estimate.seconds / estimate.steps,
            steps=estimate.steps,
            pruned=step_seconds[pruned],
            vanilla=step_seconds[BASELINE],
        ),
    )
