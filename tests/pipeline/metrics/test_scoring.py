from dataclasses import replace

import numpy as np
import pytest
from helpers.data_cards import data_card

from pipeline.common.data_card import DataCard
from pipeline.common.errors import PipelineError
from pipeline.metrics import definitions
from pipeline.metrics import scoring as metrics
from pipeline.tasks.base import Predictions
from pipeline.tasks.inference import check_finite

BINARY = data_card(metric="mcc")
THREE = data_card(metric="mcc", labels=["a", "b", "c"])
VALUES = data_card(task_name="text-regression", labels=[], metrics=["pearson", "spearman"])


def found(labels: np.ndarray, predictions: np.ndarray) -> Predictions:
    return Predictions(labels=labels, predictions=predictions, loss=0.0)


def score(card: DataCard, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return metrics.score(card, found(labels, predictions))


def interval(
    card: DataCard, labels: np.ndarray, predictions: np.ndarray, **drawn: int
) -> tuple[float, float]:
    statistics = metrics.ExampleStatistics.compute(card, found(labels, predictions))
    return statistics.interval(card.metric, **drawn)


def noisy(rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=rows)
    return labels, np.where(generator.random(rows) < 0.8, labels, 1 - labels)


def test_f1_of_two_classes_is_that_of_the_second():
    labels, predictions = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])

    # 2 true positives, 1 false positive, 1 false negative.
    assert score(BINARY, labels, predictions)["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert score(BINARY, 1 - labels, 1 - predictions)["f1"] == pytest.approx(2 / (2 + 1 + 1))


def test_f1_of_more_classes_is_the_mean_over_those_that_occur():
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])

    assert score(THREE, labels, predictions)["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


@pytest.mark.parametrize("constant", [0, 1])
def test_a_model_that_always_says_one_class_scores_no_correlation(constant):
    labels = np.array([0, 1, 1, 0])
    values = score(BINARY, labels, np.full(4, constant))

    assert values["mcc"] == 0
    assert values["accuracy"] == 0.5
    assert score(BINARY, np.zeros(4, int), np.zeros(4, int))["f1"] == 0


def test_constant_values_have_no_correlation():
    values = score(VALUES, np.array([1.0, 2.0, 3.0]), np.full(3, 2.0, np.float32))

    assert values == {"pearson": 0, "spearman": 0}


def test_spearman_sees_order_where_pearson_sees_distance():
    labels = np.arange(1.0, 9.0)
    values = score(VALUES, labels, np.exp(labels))

    assert values["spearman"] == pytest.approx(1)
    assert values["pearson"] < 0.9


def test_confusion_has_true_classes_in_rows_also_those_that_never_occur():
    assert metrics.confusion(THREE, found(np.array([0, 0, 1]), np.array([0, 1, 1]))) == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_interval_is_seeded_and_holds_the_value():
    labels, predictions = noisy(300)
    low, high = interval(BINARY, labels, predictions, resamples=200, seed=1)

    assert low < score(BINARY, labels, predictions)["mcc"] < high
    assert (low, high) == interval(BINARY, labels, predictions, resamples=200, seed=1)
    assert (low, high) != interval(BINARY, labels, predictions, resamples=200, seed=2)


def test_interval_of_accuracy_is_the_binomial_one():
    labels, predictions = noisy(1000)
    card = data_card()
    low, high = interval(card, labels, predictions, resamples=1000, seed=0)
    accuracy = score(card, labels, predictions)["accuracy"]

    expected = 2 * 1.96 * (accuracy * (1 - accuracy) / 1000) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.1)


def test_interval_of_a_constant_model_is_a_point():
    labels = np.array([0, 1] * 20)

    assert interval(BINARY, labels, np.zeros(40, int), resamples=20, seed=0) == (0, 0)
    assert interval(VALUES, labels * 1.0, np.zeros(40), resamples=20, seed=0) == (0, 0)


def test_an_output_that_is_not_a_number_names_its_row():
    logits = np.array([[0.0, 1.0], [0.0, np.nan]])

    with pytest.raises(PipelineError, match=r"row 1 is not a number; lower finetune\.lr"):
        check_finite(logits)


def test_texts_are_compared_once_for_all_values_and_intervals(monkeypatch):
    calls = []

    def counted(label: str, prediction: str) -> tuple[float, float, float]:
        calls.append(label)
        return 0.1 * len(label), 0.2, 0.3

    keys = ("rouge1", "rouge2", "rougeL")
    for column, key in enumerate(keys):
        metric = replace(definitions.METRICS[key], per_example=counted)
        assert definitions.METRICS[key].aggregate(np.eye(3)[[column]]) == 1
        monkeypatch.setitem(definitions.METRICS, key, metric)
    card = data_card(task_name="seq2seq-lm", labels=[], metrics=keys)
    texts = np.array(["a", "bb", "cc"], object)

    statistics = metrics.ExampleStatistics.compute(card, found(texts, texts))

    assert statistics.values() == {
        "rouge1": pytest.approx(0.5 / 3),
        "rouge2": pytest.approx(0.2),
        "rougeL": pytest.approx(0.3),
    }
    assert statistics.interval("rougeL", resamples=10, seed=0) == pytest.approx((0.3, 0.3))
    assert calls == ["a", "bb", "cc"]
