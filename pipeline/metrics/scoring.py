"""A task's metrics, and how far the main one is to be trusted."""

from __future__ import annotations

from sklearn.metrics import confusion_matrix

from pipeline.common.data_card import DataCard
from pipeline.metrics.definitions import Measure, Statistics, find_measure
from pipeline.tasks.base import Found


def higher_is_better(metric: str) -> bool:
    """Which way a metric goes."""
    return find_measure(metric).higher_is_better


def score(card: DataCard, found: Found) -> dict[str, float]:
    """Every metric of the task that the model said enough for."""
    there = [name for name in card.metrics if found.has(name)]
    counted = {name: _counted(name, card, found) for name in there}
    return {name: measure.value(rows) for name, (measure, rows) in counted.items()}


def interval(card: DataCard, found: Found, *, resamples: int, seed: int) -> list[float]:
    """95 % interval of the task's main metric: percentiles over resampled rows.

    One seed draws the same rows for every model, so that their values can be paired.
    """
    measure, rows = _counted(card.metric, card, found)
    return measure.interval(rows, resamples=resamples, seed=seed)


def confusion(card: DataCard, found: Found) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    classes = range(len(card.labels))
    counts: list[list[int]] = confusion_matrix(
        found.labels, found.predictions, labels=list(classes)
    ).tolist()
    return counts


def _counted(name: str, card: DataCard, found: Found) -> tuple[Measure, Statistics]:
    """A measure, and what each row counts for in it."""
    measure = find_measure(name, classes=len(card.labels))
    labels, predictions = found.sides(name)
    return measure, measure.statistics(labels, predictions, found.groups)
