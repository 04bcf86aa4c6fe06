"""Macro F1 and balanced accuracy of tags, where each row has a list of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.metrics.definitions import Metric, Statistics

TAG_METRICS = ("f1_macro", "balanced_accuracy")


def make_tag_metric(name: str, tags: Sequence[str]) -> Metric:
    """Return a metric of classes for rows of tags: rows are resampled, words are counted.

    Args:
        name: one of `TAG_METRICS`.
        tags: all that there are.
    """
    ids = {tag: index for index, tag in enumerate(tags)}

    def count(label: Sequence[str], prediction: Sequence[str]) -> tuple[float, ...]:
        """Count, for each tag, the right ones, those in the labels, and those predicted."""
        truth, found = ([ids[tag] for tag in side] for side in (label, prediction))
        right = [tag for tag, other in zip(truth, found, strict=True) if tag == other]
        sides = (right, truth, found)
        return tuple(
            np.concatenate([np.bincount(np.array(x, int), minlength=len(ids)) for x in sides])
        )

    def aggregate(statistics: Statistics) -> float:
        right, labels, predictions = statistics.sum(axis=0).reshape(3, -1)
        if name == "balanced_accuracy":
            return _compute_mean_ratio(right, labels)
        return _compute_mean_ratio(2 * right, labels + predictions)

    return Metric(name=name, per_example=count, aggregate=aggregate)


def _compute_mean_ratio(numerators: Statistics, denominators: Statistics) -> float:
    """Return the mean over the tags whose denominator is not 0, as scikit-learn does."""
    found = denominators > 0
    return float((numerators[found] / denominators[found]).mean())
