"""The metrics of a task, by its card: each example is looked at once for all of them."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.data_cards import make_data_card
from sklearn.metrics import balanced_accuracy_score, f1_score

from pipeline.common.errors import PipelineError
from pipeline.metrics import definitions
from pipeline.metrics.scoring import ExampleStatistics, count_confusion, score
from pipeline.stages.evaluate import measure
from pipeline.tasks.base import Predictions, make_object_array
from pipeline.tasks.inference import check_finite
from pipeline.tasks.text_generation import Seq2SeqLM

THREE_CLASSES = make_data_card(metric="mcc", labels=["a", "b", "c"])


def predict(labels: list[int] | np.ndarray, values: list[int] | np.ndarray) -> Predictions:
    return Predictions(labels=np.asarray(labels), predictions=np.asarray(values), loss=0.0)


def test_the_card_decides_which_class_f1_is_of():
    labels, predictions = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]
    no, yes = (
        score(make_data_card(positive_class=name), predict(labels, predictions))
        for name in ("no", "yes")
    )
    three = score(THREE_CLASSES, predict([0, 0, 1, 1], [0, 0, 1, 0]))

    assert (no["f1"], yes["f1"]) == (pytest.approx(1 / 2), pytest.approx(2 / 3))
    assert three["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)  # mean over those that occur


def test_tags_are_counted_by_word_and_resampled_by_row():
    generator = np.random.default_rng(0)
    tags = ["O", "NOUN", "VERB", "ADJ", "never"]
    sides = [
        [
            [tags[tag] for tag in generator.choice(4, size, p=[0.7, 0.2, 0.08, 0.02])]
            for size in sizes
        ]
        for sizes in [generator.integers(1, 9, 30)] * 2
    ]
    names = ("f1_macro", "balanced_accuracy")
    card = make_data_card(labels=tags, metrics=names)
    found = ExampleStatistics.compute(card, predict(*map(make_object_array, sides)))

    words = [[tag for row in side for tag in row] for side in sides]
    assert found.compute_values() == {
        "f1_macro": pytest.approx(f1_score(*words, average="macro")),
        "balanced_accuracy": pytest.approx(balanced_accuracy_score(*words)),
    }
    low, high = found.compute_interval("f1_macro", resamples=50, seed=0)
    assert low < found.compute_values()["f1_macro"] < high


def test_confusion_has_true_classes_in_rows_also_those_that_never_occur():
    assert count_confusion(THREE_CLASSES, predict([0, 0, 1], [0, 1, 1])) == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_an_output_that_is_not_a_number_names_its_row():
    logits = np.array([[0.0, 1.0], [0.0, np.nan]])

    with pytest.raises(PipelineError, match=r"row 2 is not a number; lower finetune\.lr"):
        check_finite(logits)


def test_texts_are_compared_once_for_all_values_and_intervals(monkeypatch):
    compared = []

    def count(label: str, prediction: str) -> tuple[float, float, float]:
        compared.append(label)
        return 0.1 * len(label), 0.2, 0.3

    keys = ("rouge1", "rouge2", "rougeL")
    for column, key in enumerate(keys):
        metric = replace(definitions.METRICS[key], per_example=count)
        assert definitions.METRICS[key].aggregate(np.eye(3)[[column]]) == 1
        monkeypatch.setitem(definitions.METRICS, key, metric)
    task = Seq2SeqLM(make_data_card(labels=[], metrics=keys, metric="rougeL"))
    texts = np.array(["a", "bb", "cc"], object)
    parameters = {"base_parameters": 2, "trainable_parameters": 1}

    evaluation = measure(task, predict(texts, texts), parameters, resamples=10, seed=0)

    assert evaluation.metrics == {
        "rouge1": pytest.approx(0.5 / 3),
        "rouge2": pytest.approx(0.2),
        "rougeL": pytest.approx(0.3),
    }
    assert evaluation.interval == pytest.approx((0.3, 0.3))
    assert compared == ["a", "bb", "cc"]
