"""Each metric against values worked out by hand, and the ways to put rows together."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.metrics.definitions import METRICS, find_metric

GROUPED = ("multirc_f1a", "multirc_em")


def test_f1_is_of_class_one_and_the_macro_mean_over_classes_that_occur():
    labels, predictions = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]

    # Class 1: 2 true positives, 1 false positive, 1 false negative. Class 0: 1, 1 and 1.
    assert METRICS["f1"](labels, predictions) == pytest.approx(2 / 3)
    assert METRICS["f1_macro"](labels, predictions) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert METRICS["balanced_accuracy"](labels, predictions) == balanced_accuracy_score(
        labels, predictions
    )
    assert find_metric("f1", positive=0)(labels, predictions) == pytest.approx(1 / 2)
    assert find_metric("f1", positive=None) is METRICS["f1_macro"]


def test_multi_label_metrics_are_those_of_scikit_learn_and_are_resampled_by_row():
    generator = np.random.default_rng(0)
    labels = (generator.random((40, 5)) < [0.5, 0.3, 0.1, 0.5, 0]).astype(int)  # one never occurs
    scores = (labels + 2 * generator.random((40, 5))) / 3
    predictions = (scores > 0.4).astype(int)

    for average in ("micro", "macro"):
        expected = f1_score(labels, predictions, average=average, zero_division=0.0)
        assert METRICS[f"f1_{average}"](labels, predictions) == pytest.approx(expected)
    accuracy = METRICS["subset_accuracy"]
    assert accuracy(labels, predictions) == accuracy_score(labels, predictions)
    precision = METRICS["average_precision"]
    four = average_precision_score(labels[:, :4], scores[:, :4])
    assert precision(labels, scores) == pytest.approx(four)
    for metric, values in ((METRICS["f1_macro"], predictions), (precision, scores)):
        statistics = metric.compute_statistics(labels, values)
        low, high = metric.compute_interval(statistics, resamples=20, seed=0)
        assert statistics.shape == (40, 10)
        assert low < metric.aggregate(statistics) < high
    assert precision(0 * labels, scores) == 0
    assert precision(labels[:, :2] * [1, 0], scores[:, :2]) == pytest.approx(
        average_precision_score(labels[:, 0], scores[:, 0])
    )


@pytest.mark.parametrize("name", ["f1", "mcc", "pearson", "spearman"])
def test_what_is_undefined_counts_as_zero(name):
    assert METRICS[name]([0, 0, 0], [0, 0, 0]) == 0
    assert METRICS[name]([0, 1, 1], np.zeros(3, np.float32)) == 0
    assert name == "f1" or METRICS[name]([0, 1, 1], [1, 1, 1]) == 0


def test_correlations_see_order_and_distance():
    labels = np.arange(1.0, 9.0)

    assert METRICS["spearman"](labels, np.exp(labels)) == pytest.approx(1)
    assert 0 < METRICS["pearson"](labels, np.exp(labels)) < 0.9
    assert METRICS["mcc"]([0, 1, 1, 0], [1, 0, 0, 1]) == -1
    assert METRICS["accuracy"](np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1])) == 0.75


def test_multirc_counts_answers_over_all_questions_and_questions_that_are_all_right():
    groups = ["q1", "q1", "q2", "q1", "q2"]
    labels, predictions = [1, 0, 1, 1, 0], [1, 0, 0, 1, 1]

    f1a = METRICS["multirc_f1a"](labels, predictions, groups)
    assert f1a == pytest.approx(f1_score(labels, predictions)) == pytest.approx(2 / 3)
    assert METRICS["multirc_em"](labels, predictions, groups) == 0.5
    assert METRICS["multirc_em"].compute_statistics(labels, predictions, groups).shape == (2, 1)


def test_exact_match_forgives_space_at_the_ends_only():
    labels, predictions = ["Paris", "Paris", "a b"], [" Paris\n", "paris", "a  b"]

    assert METRICS["exact_match"](labels, predictions) == pytest.approx(1 / 3)


def test_rouge_counts_words_pairs_and_the_longest_common_order():
    label, prediction = ["The cat sat on the mat."], ["on the mat, THE CAT slept"]

    # Five of six words; of five pairs "the cat", "on the", "the mat"; "on the mat" in order.
    assert METRICS["rouge1"](label, prediction) == pytest.approx(5 / 6)
    assert METRICS["rouge2"](label, prediction) == pytest.approx(3 / 5)
    assert METRICS["rougeL"](label, prediction) == pytest.approx(3 / 6)
    assert METRICS["rougeL"](label, ["..."]) == 0


def test_entity_f1_counts_whole_entities_over_all_rows():
    labels = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "B-ORG"], ["O"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"], ["I-PER"]]

    # Four entities, four predicted (wrong type, merged, invented), one right.
    assert METRICS["entity_f1"](labels, predictions) == pytest.approx(2 * 1 / (4 + 4))
    assert METRICS["entity_f1"](labels, labels) == 1
    assert METRICS["entity_f1"]([["O"]], [["O"]]) == 0
    assert METRICS["token_accuracy"](labels, predictions) == pytest.approx(4 / 7)


def test_perplexity_weighs_tokens_not_rows():
    tokens, losses = [3, 1], [3 * math.log(2), math.log(32)]

    assert METRICS["perplexity"](tokens, losses) == pytest.approx(4)
    assert METRICS["perplexity"]([1], [1e6]) == math.inf
    assert [name for name in METRICS if not METRICS[name].higher_is_better] == ["perplexity"]


def test_values_of_drawn_rows_equal_those_of_their_statistics():
    rows = np.random.default_rng(0).integers(40, size=40)
    numbers = np.random.default_rng(1).integers(1, 3, size=(2, 40))
    texts = [[["a b", "b c", "a c b"][n] for n in side] for side in numbers]
    tags = [[["O", "B-X", "I-X"][n : n + 2] for n in side % 2] for side in numbers]
    kinds = {
        "entity_f1": tags,
        "token_accuracy": tags,
        "squad_em": [[[t] for t in texts[0]], texts[1]],
    }
    kinds |= dict.fromkeys(("squad_f1", "record_f1", "record_em"), kinds["squad_em"])
    indicators = np.random.default_rng(2).integers(0, 2, size=(2, 40, 3))
    kinds |= dict.fromkeys(("f1_micro", "subset_accuracy", "average_precision"), indicators)
    kinds |= dict.fromkeys(("exact_match", "final_number", "rouge1", "rouge2", "rougeL"), texts)
    for name in METRICS.keys() - set(GROUPED):
        labels, predictions = kinds.get(name, numbers)
        metric = METRICS[name]
        drawn = [[side[row] for row in rows] for side in (labels, predictions)]

        resampled = metric.aggregate(metric.compute_statistics(labels, predictions)[rows])
        assert resampled == pytest.approx(metric(*drawn)), name


def predict_four_of_five(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and predictions of which about a fifth are wrong."""
    labels = np.tile([0, 1], rows // 2)
    right = np.random.default_rng(0).random(rows) < 0.8
    return labels, np.where(right, labels, 1 - labels)


@pytest.mark.parametrize("name", ["mcc", "multirc_em"])
def test_interval_is_seeded_and_holds_the_value(name):
    metric = METRICS[name]
    counts = metric.compute_statistics(*predict_four_of_five(200), np.arange(200) // 4)
    low, high = metric.compute_interval(counts, resamples=200, seed=1)

    assert low < metric.aggregate(counts) < high
    assert (low, high) == metric.compute_interval(counts, resamples=200, seed=1)
    assert (low, high) != metric.compute_interval(counts, resamples=200, seed=2)


def test_interval_of_accuracy_is_the_binomial_one():
    counts = METRICS["accuracy"].compute_statistics(*predict_four_of_five(1000))
    low, high = METRICS["accuracy"].compute_interval(counts, resamples=1000, seed=0)
    accuracy = METRICS["accuracy"].aggregate(counts)

    expected = 2 * 1.96 * (accuracy * (1 - accuracy) / 1000) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
def test_interval_of_a_constant_model_is_a_point(name):
    counts = METRICS[name].compute_statistics([0, 1] * 20, [0] * 40)

    assert METRICS[name].compute_interval(counts, resamples=20, seed=0) == (0, 0)


@pytest.mark.parametrize("name", GROUPED)
def test_a_measure_over_questions_needs_their_ids(name):
    with pytest.raises(DataError, match=f"{name} needs the group of each row"):
        METRICS[name]([1], [1])
    with pytest.raises(DataError, match=f"{name} needs the group of each row, row 1 has none"):
        METRICS[name]([1, 1], [1, 1], ["q1", None])


def test_lengths_that_differ_and_unknown_names_are_refused():
    with pytest.raises(DataError, match=r"accuracy needs as many predictions as labels.*\[1, 2\]"):
        METRICS["accuracy"]([1, 2], [1])
    with pytest.raises(ConfigError, match=r"metric 'bleu' must be one of accuracy, balanced"):
        find_metric("bleu")
