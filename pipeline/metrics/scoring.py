"""The values of a task's metrics, and the confidence interval of the main one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from sklearn.metrics import confusion_matrix

from pipeline.common.data_card import DataCard
from pipeline.common.errors import DataError
from pipeline.metrics.definitions import Metric, Statistics, find_metric
from pipeline.metrics.tags import TAG_METRICS, make_tag_metric
from pipeline.tasks.base import Predictions


@dataclass(frozen=True)
class ExampleStatistics:
    """What each metric of a task counts on each example, computed once.

    Attributes:
        by_metric: name -> the metric and its statistics; without metrics that need predictions
            which the model was not asked for.
    """

    by_metric: dict[str, tuple[Metric, Statistics]]

    @classmethod
    def compute(cls, card: DataCard, predictions: Predictions) -> ExampleStatistics:
        """Compute the statistics of all metrics of the task; texts are compared once."""
        computed: dict[Hashable, Statistics] = {}
        by_metric = {}
        positive = None if card.labels else 1  # of choices, which have no names
        if card.positive_class is not None:
            positive = card.labels.index(card.positive_class)
        for name in card.metrics:
            inputs = predictions.select_metric_inputs(name)
            if inputs is None:
                continue
            metric = find_metric(name, positive=positive)
            if name in TAG_METRICS and isinstance(inputs[0][0], list):
                metric = make_tag_metric(name, card.labels)
            # Perplexity and others may share a function, but not their inputs.
            key = (metric.per_example, name in ("perplexity", "average_precision"))
            if key not in computed:
                computed[key] = metric.compute_statistics(*inputs, predictions.groups)
            by_metric[name] = metric, computed[key]
        return cls(by_metric)

    def compute_values(self) -> dict[str, float]:
        """Return the value of every metric."""
        return {
            name: metric.aggregate(statistics)
            for name, (metric, statistics) in self.by_metric.items()
        }

    def compute_interval(self, name: str, *, resamples: int, seed: int) -> tuple[float, float]:
        """Return the 95 % interval of a metric, see `Metric.compute_interval`.

        Raises:
            DataError: the metric needs predictions that the model was not asked for.
        """
        if name not in self.by_metric:
            raise DataError(f"{name} can't be measured: the model was not asked to generate")
        metric, statistics = self.by_metric[name]
        return metric.compute_interval(statistics, resamples=resamples, seed=seed)


def score(card: DataCard, predictions: Predictions) -> dict[str, float]:
    """Return the value of every metric that the predictions support."""
    return ExampleStatistics.compute(card, predictions).compute_values()


def count_confusion(card: DataCard, predictions: Predictions) -> list[list[int]]:
    """Return the confusion matrix: rows are true classes, columns predicted ones."""
    classes = list(range(len(card.labels)))
    matrix = confusion_matrix(predictions.labels, predictions.predictions, labels=classes)
    counts: list[list[int]] = matrix.tolist()
    return counts
