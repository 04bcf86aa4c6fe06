"""The metrics: what each counts on one example, and how the counts become one value.

`per_example` returns counts of one example, `aggregate` turns the counts of all examples into one
value. Resampling draws rows of these counts, so each text is compared once, not once a resample.
Values lie in [0, 1], correlations in [-1, 1]; for perplexity alone, lower is better.
A value that a constant prediction leaves undefined (MCC, F1, correlations) counts as 0.

| labels and predictions | metrics |
|---|---|
| class numbers, indices of choices | accuracy, balanced_accuracy, f1 (of one), f1_macro, mcc |
| 0 or 1 of each class | f1_micro, f1_macro, subset_accuracy |
| 0 or 1 of each class, and its probability | average_precision |
| numbers | pearson, spearman |
| 0 and 1 of one answer, with the question's id as group | multirc_f1a, multirc_em |
| texts | exact_match, final_number, rouge1, rouge2, rougeL |
| lists of right texts (none: no answer), and a text | squad_em, squad_f1, record_em, record_f1 |
| lists of tags | entity_f1 (BIO), token_accuracy; f1_macro, balanced_accuracy: `tags` |
| tokens of a completion, and their summed negative log-likelihood | perplexity |
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    recall_score,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.metrics.text_matching import (
    ROUGE_KEYS,
    compute_rouge_scores,
    compute_squad_scores,
    count_equal_tags,
    find_bio_spans,
    is_same_number,
    is_same_text,
)

Examples = Sequence[Any] | NDArray[Any]  # one entry an example
Statistics = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Metrics with the same `per_example` share its counts.

    Attributes:
        name: as in data.metric.
        per_example: a label and a prediction -> one or more counts; with `grouped`, the labels and
            the predictions of one group.
        aggregate: counts of all examples, shape (examples, counts) -> the value.
        higher_is_better: whether a higher value is a better one.
        grouped: whether examples of one group (the answers of one question) count and are
            resampled together.
    """

    name: str
    per_example: Callable[[Any, Any], float | tuple[float, ...]]
    aggregate: Callable[[Statistics], float]
    higher_is_better: bool = True
    grouped: bool = False

    def compute_statistics(
        self,
        labels: Examples,
        predictions: Examples,
        groups: Examples | None = None,
    ) -> Statistics:
        """Return the counts of each example: shape `(examples, counts)`, or `(groups, counts)`.

        Raises:
            DataError: lengths differ, there is no example, or groups are needed and missing.
        """
        sizes = {len(labels), len(predictions), len(labels if groups is None else groups)}
        if len(sizes) > 1 or 0 in sizes:
            raise DataError(f"{self.name} needs as many predictions as labels, got {sorted(sizes)}")
        pairs: Iterable[tuple[Any, Any]] = zip(labels, predictions, strict=True)
        if self.grouped:
            pairs = _collect_groups(self.name, pairs, groups)
        counts = [self.per_example(label, prediction) for label, prediction in pairs]
        return np.asarray(counts, np.float64).reshape(len(counts), -1)

    def __call__(
        self,
        labels: Examples,
        predictions: Examples,
        groups: Examples | None = None,
    ) -> float:
        """Return the value over all examples."""
        return self.aggregate(self.compute_statistics(labels, predictions, groups))

    def compute_interval(
        self, statistics: Statistics, *, resamples: int, seed: int
    ) -> tuple[float, float]:
        """Return the 95 % interval: percentiles of the value over resampled examples.

        One seed draws the same examples for every model, so that their values can be paired.
        """
        # Not scipy.stats.bootstrap: its percentiles are at (1 - 0.95) / 2 = 0.025000000000000022,
        # and it returns nan where all resamples have one value.
        generator, rows = np.random.default_rng(seed), len(statistics)
        draws = (generator.integers(rows, size=rows) for _ in range(resamples))
        values = [self.aggregate(statistics[drawn]) for drawn in draws]
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)


def find_metric(name: str, *, positive: int | None = 1) -> Metric:
    """Return the metric of that name; `f1` is that of class `positive`; None: the classes' mean.

    Raises:
        ConfigError: no metric has that name.
    """
    if name not in METRICS:
        raise ConfigError(f"metric {name!r} must be one of {', '.join(METRICS)}")
    if name != "f1" or positive == 1:
        return METRICS[name]
    if positive is None:
        return METRICS["f1_macro"]
    return replace(METRICS[name], aggregate=partial(_compute_f1, positive=positive))


def is_higher_better(metric: str) -> bool:
    """Return whether a higher value of the metric is a better one."""
    return find_metric(metric).higher_is_better


def find_best_value(metric: str, values: Iterable[float]) -> float:
    """Return the best of several values of the metric."""
    return max(values) if is_higher_better(metric) else min(values)


def _collect_groups(
    name: str, pairs: Iterable[tuple[Any, Any]], groups: Examples | None
) -> Iterable[tuple[Any, Any]]:
    """Yield the labels and the predictions of each group, in the order of their first row."""
    if groups is None:
        raise DataError(f"{name} needs the group of each row")
    members: dict[Hashable, list[Any]] = {}
    for row, (group, pair) in enumerate(zip(groups, pairs, strict=True)):
        if group is None:
            raise DataError(f"{name} needs the group of each row, row {row} has none")
        members.setdefault(group, []).append(pair)
    for rows in members.values():
        labels, predictions = zip(*rows, strict=True)
        yield labels, predictions


def _keep_pair(label: Any, prediction: Any) -> tuple[float, float]:
    return label, prediction


def _make_mean(column: int) -> Callable[[Statistics], float]:
    def aggregate(statistics: Statistics) -> float:
        return float(np.ascontiguousarray(statistics[:, column]).mean())

    return aggregate


_mean = _make_mean(0)


def _compute_ratio(statistics: Statistics) -> float:
    """Return the ratio of the first count to the second."""
    numerator, denominator = statistics.sum(axis=0)
    return float(numerator / denominator) if denominator else 0.0


def _compute_f1_of_counts(statistics: Statistics) -> float:
    """Return the F1 of counts: right, in the labels, in the predictions."""
    right, labels, predictions = statistics.sum(axis=0)
    return float(2 * right / (labels + predictions)) if right else 0.0


def _compute_f1(statistics: Statistics, positive: int = 1) -> float:
    of_class = f1_score(*statistics.T, labels=[positive], average="macro", zero_division=0.0)
    return float(of_class)


def _compute_f1_macro(statistics: Statistics) -> float:
    """Return the mean over the classes, as scikit-learn does.

    Of class numbers, these are the classes that occur in labels or predictions.
    """
    return float(f1_score(*np.hsplit(statistics, 2), average="macro", zero_division=0.0))


def _compute_f1_micro(statistics: Statistics) -> float:
    return float(f1_score(*np.hsplit(statistics, 2), average="micro", zero_division=0.0))


def _compute_average_precision(statistics: Statistics) -> float:
    """Return the mean over the classes that occur in labels; 0 without any."""
    labels, scores = np.hsplit(statistics, 2)
    found = labels.any(axis=0)
    if not found.any():
        return 0.0
    return float(average_precision_score(labels[:, found], scores[:, found], average="macro"))


def _compute_balanced_accuracy(statistics: Statistics) -> float:
    """Return the mean recall of the classes that occur in labels, as scikit-learn does."""
    labels, predictions = statistics.T
    return float(recall_score(labels, predictions, labels=np.unique(labels), average="macro"))


def _guard_constant(function: Callable[[Any, Any], Any]) -> Callable[[Statistics], float]:
    def aggregate(statistics: Statistics) -> float:
        constant = (statistics == statistics[0]).all(axis=0).any()
        return 0.0 if constant else float(function(*statistics.T))

    return aggregate


def _compute_perplexity(statistics: Statistics) -> float:
    tokens, loss = statistics.sum(axis=0)
    with np.errstate(over="ignore"):  # a loss of 710 a token is an infinite perplexity
        return float(np.exp(loss / tokens))


def _count_options(labels: Sequence[int], predictions: Sequence[int]) -> tuple[int, int, int]:
    """Count, of one question's answers, the right ones chosen, the right ones, the chosen ones."""
    chosen = [label for label, taken in zip(labels, predictions, strict=True) if taken]
    return sum(chosen), sum(labels), len(chosen)


def _compare(label: Any, prediction: Any) -> float:
    return float(label == prediction)


def _compare_all(labels: Sequence[int], predictions: Sequence[int]) -> float:
    return float(list(labels) == list(predictions))


def _count_entities(label: Sequence[str], prediction: Sequence[str]) -> tuple[int, int, int]:
    right, predicted = find_bio_spans(label), find_bio_spans(prediction)
    return len(right & predicted), len(right), len(predicted)


_METRICS = (
    Metric(name="accuracy", per_example=_compare, aggregate=_mean),
    Metric(name="balanced_accuracy", per_example=_keep_pair, aggregate=_compute_balanced_accuracy),
    Metric(name="f1", per_example=_keep_pair, aggregate=_compute_f1),
    Metric(name="f1_macro", per_example=_keep_pair, aggregate=_compute_f1_macro),
    Metric(name="f1_micro", per_example=_keep_pair, aggregate=_compute_f1_micro),
    Metric(name="subset_accuracy", per_example=_compare_all, aggregate=_mean),
    Metric(name="average_precision", per_example=_keep_pair, aggregate=_compute_average_precision),
    Metric(name="mcc", per_example=_keep_pair, aggregate=_guard_constant(matthews_corrcoef)),
    Metric(
        name="pearson",
        per_example=_keep_pair,
        aggregate=_guard_constant(lambda x, y: pearsonr(x, y).statistic),
    ),
    Metric(
        name="spearman",
        per_example=_keep_pair,
        aggregate=_guard_constant(lambda x, y: spearmanr(x, y).statistic),
    ),
    Metric(
        name="multirc_f1a",
        per_example=_count_options,
        aggregate=_compute_f1_of_counts,
        grouped=True,
    ),
    Metric(name="multirc_em", per_example=_compare_all, aggregate=_mean, grouped=True),
    Metric(name="exact_match", per_example=is_same_text, aggregate=_mean),
    Metric(name="final_number", per_example=is_same_number, aggregate=_mean),
    *(
        Metric(name=key, per_example=compute_rouge_scores, aggregate=_make_mean(column))
        for column, key in enumerate(ROUGE_KEYS)
    ),
    Metric(name="squad_em", per_example=compute_squad_scores, aggregate=_make_mean(0)),
    Metric(name="squad_f1", per_example=compute_squad_scores, aggregate=_make_mean(1)),
    # ReCoRD scores the text of the chosen entity against all right ones, with SQuAD's code.
    Metric(name="record_em", per_example=compute_squad_scores, aggregate=_make_mean(0)),
    Metric(name="record_f1", per_example=compute_squad_scores, aggregate=_make_mean(1)),
    Metric(name="entity_f1", per_example=_count_entities, aggregate=_compute_f1_of_counts),
    Metric(name="token_accuracy", per_example=count_equal_tags, aggregate=_compute_ratio),
    Metric(
        name="perplexity",
        per_example=_keep_pair,
        aggregate=_compute_perplexity,
        higher_is_better=False,
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
