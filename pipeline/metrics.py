"""A task's metrics, and how far the main one is to be trusted.

`card` is the data card that the prepare stage wrote: `kind`, `labels`, `metric` and `metrics`.
What a constant prediction leaves undefined (MCC, F1, correlations) counts as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
)

from pipeline.kind import Found, Values


def higher_is_better(metric: str) -> bool:
    """Which way a metric goes."""
    return True


def score(card: dict[str, Any], found: Found) -> dict[str, float]:
    """Every metric of the task."""
    return {name: _measure(name, card, found.labels, found.predictions) for name in card["metrics"]}


def interval(card: dict[str, Any], found: Found, *, resamples: int, seed: int) -> list[float]:
    """95 % interval of the task's main metric: percentiles over resampled rows.

    One seed draws the same rows for every model, so that their values can be paired.
    """
    generator, labels, predictions = np.random.default_rng(seed), found.labels, found.predictions
    drawn = (generator.integers(len(labels), size=len(labels)) for _ in range(resamples))
    values = [_measure(card["metric"], card, labels[rows], predictions[rows]) for rows in drawn]
    return [float(edge) for edge in np.quantile(values, [0.025, 0.975])]


def confusion(card: dict[str, Any], found: Found) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    classes = range(len(card["labels"]))
    counts: list[list[int]] = confusion_matrix(
        found.labels, found.predictions, labels=list(classes)
    ).tolist()
    return counts


def _measure(name: str, card: dict[str, Any], labels: Values, predictions: Values) -> float:
    if name == "accuracy":
        return float(accuracy_score(labels, predictions))
    if name == "f1":
        # Two classes: of the second one, as GLUE has it. More: the mean over those that occur.
        positive = [1] if len(card["labels"]) == 2 else None
        return float(
            f1_score(labels, predictions, labels=positive, average="macro", zero_division=0.0)
        )
    if _constant(labels) or _constant(predictions):
        return 0.0
    if name == "mcc":
        return float(matthews_corrcoef(labels, predictions))
    correlation = {"pearson": pearsonr, "spearman": spearmanr}[name]
    return float(correlation(labels, predictions).statistic)


def _constant(values: Values) -> bool:
    return bool((values == values[0]).all())
