"""What a task is measured by: every metric, computed once per row and then put together.

A measure counts something on each row (`statistics`) and makes one value of them (`value`).
Resampling draws rows of the statistics, so a text is compared once and not a thousand times.
Values lie in [0, 1], correlations in [-1, 1]; perplexity is the only one where less is better.
What a constant prediction leaves undefined (MCC, F1, correlations) counts as 0.

| labels and predictions | measures |
|---|---|
| class numbers, indices of choices | accuracy, f1 (of class 1), f1_macro, mcc |
| numbers | pearson, spearman |
| 0 and 1 of one answer, with the question's id as group | multirc_f1a, multirc_em |
| texts | exact_match, final_number, rouge1, rouge2, rougeL |
| lists of right texts (none: no answer), and a text | squad_em, squad_f1, record_em, record_f1 |
| lists of tags | entity_f1 (BIO), token_accuracy |
| tokens of a completion, and their summed negative log-likelihood | perplexity |
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from pipeline.common.errors import ConfigError, DataError
from pipeline.metrics.text_matching import (
    bio_spans,
    rouge,
    same_number,
    same_tags,
    same_text,
    squad_em,
    squad_f1,
)

Statistics = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric: `row` counts on a label and a prediction, `value` makes one number of all rows.

    With `grouped`, rows of one group (the answers of one question) count and are drawn together:
    `row` then gets a group's labels and predictions.
    """

    name: str
    row: Callable[[Any, Any], float | tuple[float, ...]]
    value: Callable[[Statistics], float]
    higher_is_better: bool = True
    grouped: bool = False

    def statistics(
        self,
        labels: Sequence[Any],
        predictions: Sequence[Any],
        groups: Sequence[Hashable] | None = None,
    ) -> Statistics:
        """What each row counts for: shape `(rows, counts)`, or `(groups, counts)`.

        Raises:
            DataError: lengths differ, there is nothing, or groups are needed and missing.
        """
        sizes = {len(labels), len(predictions), len(labels if groups is None else groups)}
        if len(sizes) > 1 or 0 in sizes:
            raise DataError(f"{self.name} needs as many predictions as labels, got {sorted(sizes)}")
        pairs = zip(labels, predictions, strict=True)
        if self.grouped:
            pairs = _by_group(self.name, pairs, groups)
        counts = [self.row(label, prediction) for label, prediction in pairs]
        return np.asarray(counts, np.float64).reshape(len(counts), -1)

    def __call__(
        self,
        labels: Sequence[Any],
        predictions: Sequence[Any],
        groups: Sequence[Hashable] | None = None,
    ) -> float:
        """The value over all rows."""
        return self.value(self.statistics(labels, predictions, groups))

    def interval(self, statistics: Statistics, *, resamples: int, seed: int) -> list[float]:
        """95 % interval: percentiles over resampled rows.

        One seed draws the same rows for every model, so that their values can be paired.
        """
        generator, rows = np.random.default_rng(seed), len(statistics)
        drawn = (generator.integers(rows, size=rows) for _ in range(resamples))
        values = [self.value(statistics[chosen]) for chosen in drawn]
        return [float(edge) for edge in np.quantile(values, [0.025, 0.975])]


def find_measure(name: str, *, classes: int = 2) -> Measure:
    """The measure of that name; `f1` of more than two classes is the mean over the classes.

    Raises:
        ConfigError: no measure has that name.
    """
    if name not in MEASURES:
        raise ConfigError(f"metric {name!r} is not known; known: {', '.join(MEASURES)}")
    return MEASURES["f1_macro" if name == "f1" and classes > 2 else name]


def _by_group(name: str, pairs: Any, groups: Sequence[Hashable] | None) -> Any:
    """The labels and the predictions of each group, groups in the order of their first row."""
    if groups is None:
        raise DataError(f"{name} needs the group of each row")
    found: dict[Hashable, list[Any]] = {}
    for group, pair in zip(groups, pairs, strict=True):
        found.setdefault(group, []).append(pair)
    return (tuple(zip(*rows, strict=True)) for rows in found.values())


def _pair(label: Any, prediction: Any) -> tuple[float, float]:
    return label, prediction


def _mean(statistics: Statistics) -> float:
    return float(statistics.mean())


def _ratio(statistics: Statistics) -> float:
    """Of what was counted first among what was counted second."""
    part, whole = statistics.sum(axis=0)
    return float(part / whole) if whole else 0.0


def _f1_of_counts(statistics: Statistics) -> float:
    """From rows of (found right, in the labels, in the predictions)."""
    right, labels, predictions = statistics.sum(axis=0)
    return float(2 * right / (labels + predictions)) if right else 0.0


def _f1(statistics: Statistics) -> float:
    found = f1_score(*statistics.T, labels=[1], average="macro", zero_division=0.0)
    return float(found)


def _f1_macro(statistics: Statistics) -> float:
    """The mean over the classes that occur in labels or predictions."""
    return float(f1_score(*statistics.T, average="macro", zero_division=0.0))


def _unless_constant(of: Callable[[Any, Any], Any]) -> Callable[[Statistics], float]:
    def value(statistics: Statistics) -> float:
        constant = (statistics == statistics[0]).all(axis=0).any()
        return 0.0 if constant else float(of(*statistics.T))

    return value


def _perplexity(statistics: Statistics) -> float:
    tokens, loss = statistics.sum(axis=0)
    with np.errstate(over="ignore"):  # a loss of 710 a token is an infinite perplexity
        return float(np.exp(loss / tokens))


def _option_counts(labels: Sequence[int], predictions: Sequence[int]) -> tuple[int, int, int]:
    """Of one question's answers: right ones chosen, right ones, chosen ones."""
    chosen = [label for label, taken in zip(labels, predictions, strict=True) if taken]
    return sum(chosen), sum(labels), len(chosen)


def _all_equal(labels: Sequence[int], predictions: Sequence[int]) -> float:
    return float(list(labels) == list(predictions))


def _entity_counts(label: Sequence[str], prediction: Sequence[str]) -> tuple[int, int, int]:
    right, found = bio_spans(label), bio_spans(prediction)
    return len(right & found), len(right), len(found)


_MEASURES = (
    Measure(name="accuracy", row=lambda label, found: float(label == found), value=_mean),
    Measure(name="f1", row=_pair, value=_f1),
    Measure(name="f1_macro", row=_pair, value=_f1_macro),
    Measure(name="mcc", row=_pair, value=_unless_constant(matthews_corrcoef)),
    Measure(
        name="pearson",
        row=_pair,
        value=_unless_constant(lambda x, y: pearsonr(x, y).statistic),
    ),
    Measure(
        name="spearman",
        row=_pair,
        value=_unless_constant(lambda x, y: spearmanr(x, y).statistic),
    ),
    Measure(name="multirc_f1a", row=_option_counts, value=_f1_of_counts, grouped=True),
    Measure(name="multirc_em", row=_all_equal, value=_mean, grouped=True),
    Measure(name="exact_match", row=same_text, value=_mean),
    Measure(name="final_number", row=same_number, value=_mean),
    *(Measure(name=key, row=rouge(key), value=_mean) for key in ("rouge1", "rouge2", "rougeL")),
    Measure(name="squad_em", row=squad_em, value=_mean),
    Measure(name="squad_f1", row=squad_f1, value=_mean),
    # ReCoRD scores the text of the chosen entity against all right ones, with SQuAD's code.
    Measure(name="record_em", row=squad_em, value=_mean),
    Measure(name="record_f1", row=squad_f1, value=_mean),
    Measure(name="entity_f1", row=_entity_counts, value=_f1_of_counts),
    Measure(name="token_accuracy", row=same_tags, value=_ratio),
    Measure(name="perplexity", row=_pair, value=_perplexity, higher_is_better=False),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _MEASURES}
