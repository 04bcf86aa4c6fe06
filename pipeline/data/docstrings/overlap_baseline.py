"""Baseline of the docstrings tasks: how similar a name and a description look."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.data.docstrings.name_matching import extract_char_ngrams, extract_word_prefixes
from pipeline.data.readers import Table


def measure_baseline(train: Table, test: Table) -> float:
    """Return the accuracy on `test` of a logistic regression on overlap features of `train`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(_compute_pair_features(train), train["label"])
    return float(model.score(_compute_pair_features(test), test["label"]))


def measure_choice_baseline(train: Table, test: Table) -> float:
    """Return the fraction of `test` where such a model scores the true description highest.

    It is fitted to tell whether a description of `train` is the true one, from how much its overlap
    features differ from the mean over the row's choices.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    train_features, test_features = _compute_choice_features(train), _compute_choice_features(test)
    is_true = np.zeros(train_features.shape[:2], dtype=bool)
    is_true[np.arange(len(train_features)), train["label"]] = True
    num_features = train_features.shape[2]
    model.fit(train_features.reshape(-1, num_features), is_true.ravel())
    scores = model.decision_function(test_features.reshape(-1, num_features))
    chosen = scores.reshape(test_features.shape[:2]).argmax(axis=1)
    return float((chosen == np.array(test["label"])).mean())


def compute_overlap_features(name: str, description: str) -> list[float]:
    """Return counts of words, and fractions of shared words, prefixes and character n-grams."""
    names, words = (re.findall("[a-z]+", text.lower()) for text in (name, description))
    counts = [len(names), len(words), len(set(names) & set(words))]
    num_prefixes = sum(any(word.startswith(part) for word in words) for part in names)
    is_contained = "".join(names) in "".join(words)
    ngrams = [
        (extract_char_ngrams(name, size), extract_char_ngrams(description, size))
        for size in (2, 3, 4)
    ]
    return [
        *map(float, (*counts, is_contained)),
        num_prefixes / max(len(names), 1),
        *(
            fraction
            for pair in [(extract_word_prefixes(name), extract_word_prefixes(description)), *ngrams]
            for fraction in _compute_shared_fractions(*pair)
        ),
    ]


def _compute_pair_features(table: Table) -> NDArray[np.float64]:
    rows = zip(table["text"], table["text_pair"], strict=True)
    return np.array([compute_overlap_features(name, description) for name, description in rows])


def _compute_choice_features(table: Table) -> NDArray[np.float64]:
    rows = zip(table["prompt"], table["choices"], strict=True)
    features: NDArray[np.float64] = np.array(
        [[compute_overlap_features(prompt, text) for text in texts] for prompt, texts in rows]
    )
    features -= features.mean(axis=1, keepdims=True)
    return features


def _compute_shared_fractions(a: frozenset[str], b: frozenset[str]) -> tuple[float, float]:
    """Return the number of common items as a fraction of each set."""
    return len(a & b) / max(len(a), 1), len(a & b) / max(len(b), 1)
