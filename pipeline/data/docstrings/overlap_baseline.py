"""The simple baseline of the docstrings tasks: how much a name and a description look alike."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.data.docstrings.name_matching import runs, stems
from pipeline.data.readers import Table


def baseline_accuracy(train: Table, test: Table) -> float:
    """Accuracy on `test` of a logistic regression on overlap features, fitted on `train`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(_all_features(train), train["label"])
    return float(model.score(_all_features(test), test["label"]))


def choice_baseline(train: Table, test: Table) -> float:
    """Share of `test` where the same kind of model likes the true one of four descriptions best.

    It is fitted on whether a description of `train` is the true one, from how much its overlap
    differs from the mean of the row's choices.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    known, asked = _choice_features(train), _choice_features(test)
    true = np.zeros(known.shape[:2], dtype=bool)
    true[np.arange(len(known)), train["label"]] = True
    model.fit(known.reshape(-1, known.shape[2]), true.ravel())
    scores = model.decision_function(asked.reshape(-1, asked.shape[2])).reshape(asked.shape[:2])
    return float((scores.argmax(axis=1) == np.array(test["label"])).mean())


def features(name: str, description: str) -> list[float]:
    """Shares of words, stems, and runs of 2, 3 and 4 letters that the two texts have in common."""
    names, words = (re.findall("[a-z]+", text.lower()) for text in (name, description))
    counts = [len(names), len(words), len(set(names) & set(words))]
    begun = sum(any(word.startswith(part) for word in words) for part in names)
    found = "".join(names) in "".join(words)
    letters = [(runs(name, size), runs(description, size)) for size in (2, 3, 4)]
    return [
        *map(float, (*counts, found)),
        begun / max(len(names), 1),
        *(
            share
            for pair in [(stems(name), stems(description)), *letters]
            for share in _shares(*pair)
        ),
    ]


def _all_features(table: Table) -> NDArray[np.float64]:
    rows = zip(table["text"], table["text_pair"], strict=True)
    return np.array([features(name, description) for name, description in rows])


def _choice_features(table: Table) -> NDArray[np.float64]:
    rows = zip(table["prompt"], table["choices"], strict=True)
    found = np.array([[features(prompt, text) for text in texts] for prompt, texts in rows])
    return found - found.mean(axis=1, keepdims=True)


def _shares(a: frozenset[str], b: frozenset[str]) -> tuple[float, float]:
    """What is in both, as a share of either."""
    return len(a & b) / max(len(a), 1), len(a & b) / max(len(b), 1)
