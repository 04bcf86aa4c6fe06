"""Perplexity, the metric of what a model would have written."""

import math

import numpy as np
import pytest
from helpers.data_cards import make_data_card

from pipeline.common.errors import DataError
from pipeline.metrics.definitions import is_higher_better
from pipeline.metrics.scoring import ExampleStatistics, score
from pipeline.stages.evaluate import measure
from pipeline.tasks.base import Predictions
from pipeline.tasks.registry import make_task

PERPLEXITY = make_data_card(task_name="causal-lm", labels=[], metrics=["perplexity", "exact_match"])


def test_an_infinite_perplexity_is_one_line_that_names_it():
    predictions = Predictions(
        labels=np.array(["a", "b"]),
        predictions=None,
        loss=900.0,
        tokens=np.array([[1.0, 900.0], [1.0, 900.0]]),
    )
    task = make_task(PERPLEXITY)
    with pytest.raises(DataError, match=r"^test perplexity must be finite, got inf; lower "):
        measure(task, predictions, {}, resamples=10, seed=0)


def test_perplexity_weighs_tokens_and_its_interval_resamples_rows():
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 9, size=200)
    losses = tokens * draw.uniform(1, 2, size=200)
    predictions = Predictions(
        labels=np.array(["x"] * 200, object),
        predictions=None,
        loss=0.0,
        tokens=np.stack([tokens, losses], axis=1),
    )
    value = math.exp(losses.sum() / tokens.sum())
    low, high = ExampleStatistics.compute(PERPLEXITY, predictions).compute_interval(
        "perplexity", resamples=200, seed=0
    )

    assert score(PERPLEXITY, predictions) == {"perplexity": pytest.approx(value)}
    assert value * 0.9 < low < value < high < value * 1.1
    assert not is_higher_better("perplexity")
    assert is_higher_better("rougeL")
    statistics = ExampleStatistics.compute(PERPLEXITY, predictions)
    with pytest.raises(DataError, match="exact_match can't be measured"):
        statistics.compute_interval("exact_match", resamples=10, seed=0)
