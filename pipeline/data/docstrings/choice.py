"""Built-in task `docstrings-choice`: which of four descriptions belongs to this name?

All four come from the same library and the same split, and all belong to functions or all to
classes. They share as many word prefixes and about as many character n-grams with the name as the
true description does; pairs without three such distractors are no questions. Each description is
right in one row and wrong in three, so by itself it gives nothing away. The prompt is the name's
words, not the signature, because descriptions repeat the names of parameters.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.preprocessing import MultiLabelBinarizer

from pipeline.data.docstrings.extraction import Pair
from pipeline.data.docstrings.library_and_lm import PairsBySplit, read_pairs_by_split
from pipeline.data.docstrings.name_matching import (
    NGRAM_SIZE,
    extract_char_ngrams,
    extract_word_prefixes,
)
from pipeline.data.readers import Table

CHOICES = 4
BLOCK_SIZE = 9_000  # pairs matched with each other, so that large and small splits are equally hard
# Distance between two descriptions as seen from a name: 1 for each word prefix that one of them
# shares more with it, 4 for all n-grams of the name, and 4 for all n-grams of the description.
_NGRAM_WEIGHT = 4.0
MAX_DISTANCE = 1.4
_DUPLICATE_OVERLAP = 0.6  # fraction of the shorter description's prefixes that makes a duplicate
INFEASIBLE = 50.0  # distance of what must not be assigned; finite, as the solver requires

Distances = NDArray[np.float64]


def build_choice(seed: int) -> dict[str, Table]:
    """Return rows (prompt, choices, label) by split."""
    return make_choice_tables(*read_pairs_by_split(seed), seed=seed)


def make_choice_tables(
    pairs_by_split: PairsBySplit, signatures: Mapping[Pair, str], *, seed: int
) -> dict[str, Table]:
    """Return the questions of each split, with all labels equally often."""
    rng = random.Random(seed)
    tables: dict[str, Table] = {}
    for name, pairs in pairs_by_split.items():
        questions = _find_questions(pairs, signatures)
        rng.shuffle(questions)
        labels = [i % CHOICES for i in range(len(questions))]
        rng.shuffle(labels)
        choices = [[pair.description for pair in distractors] for _, distractors in questions]
        for label, (pair, _), texts in zip(labels, questions, choices, strict=True):
            texts.insert(label, pair.description)
        prompts = [make_name_prompt(pair.name) for pair, _ in questions]
        tables[name] = {"prompt": prompts, "choices": choices, "label": labels}
    return tables


def make_name_prompt(name: str) -> str:
    """Return the prompt that a description continues."""
    return f"{name}:"


def _find_questions(
    pairs: Sequence[Pair], signatures: Mapping[Pair, str]
) -> list[tuple[Pair, list[Pair]]]:
    """Return the pairs that have three distractors, with these."""
    num_blocks = max(1, round(len(pairs) / BLOCK_SIZE))
    groups: dict[tuple[int, str, bool], list[Pair]] = {}
    for i, pair in enumerate(pairs):
        key = (i % num_blocks, pair.library, signatures[pair].startswith("class"))
        groups.setdefault(key, []).append(pair)
    return [
        (group[row], [group[other] for other in others])
        for _, group in sorted(groups.items())
        for row, others in match_distractors(_compute_distances(group)).items()
    ]


def match_distractors(distances: Distances) -> dict[int, list[int]]:
    """Assign three near distractors to each row so that each row is a distractor three times.

    Each of three rounds solves a linear assignment problem. Rows that got a distractor farther away
    than MAX_DISTANCE are dropped, the worst half of them first, and the rest is matched again.

    Args:
        distances: from each row to each distractor (column), `inf` where it must not be assigned.

    Returns:
        Three distractors by row; dropped rows are missing.
    """
    costs = np.minimum(distances, INFEASIBLE)
    kept = np.arange(len(costs))
    while len(kept) >= CHOICES:
        rows, others, farthest = _assign(costs[np.ix_(kept, kept)])
        num_far = int((farthest > MAX_DISTANCE).sum())
        if not num_far:
            return {int(kept[row]): kept[others[row]].tolist() for row in rows}
        farthest_first = np.argsort(-farthest, kind="stable")
        kept = np.sort(kept[farthest_first[(num_far + 1) // 2 :]])
    return {}


def _assign(costs: Distances) -> tuple[NDArray[np.int64], NDArray[np.int64], Distances]:
    """Return the rows, three distractors of each, and the largest of their three distances."""
    remaining, others, assigned = costs.copy(), [], []
    for _ in range(CHOICES - 1):
        rows, columns = linear_sum_assignment(remaining)
        assigned.append(remaining[rows, columns].copy())
        others.append(columns)
        remaining[rows, columns] = INFEASIBLE
    return rows, np.stack(others, axis=1), np.max(assigned, axis=0)


def _compute_distances(pairs: Sequence[Pair]) -> Distances:
    """Return the distance of each description (column) from the true one, seen from each name."""
    prefixes = [extract_word_prefixes(pair.description) for pair in pairs]
    ngrams = [extract_char_ngrams(pair.description, NGRAM_SIZE) for pair in pairs]
    name_ngrams = [extract_char_ngrams(pair.name, NGRAM_SIZE) for pair in pairs]
    shared_ngrams = _count_shared(name_ngrams, ngrams)
    distances = _compute_gap_to_true(
        _count_shared([extract_word_prefixes(pair.name) for pair in pairs], prefixes)
    )
    distances += _NGRAM_WEIGHT * _compute_gap_to_true(
        shared_ngrams / _count_items(name_ngrams)[:, None]
    )
    distances += _NGRAM_WEIGHT * _compute_gap_to_true(shared_ngrams / _count_items(ngrams))
    overlap, sizes = _count_shared(prefixes, prefixes), _count_items(prefixes)
    distances[overlap > _DUPLICATE_OVERLAP * np.minimum(sizes, sizes[:, None])] = np.inf
    np.fill_diagonal(distances, np.inf)
    return distances


def _compute_gap_to_true(values: Distances) -> Distances:
    """Return how far each row's values are from its value on the diagonal."""
    return np.abs(values - np.diag(values)[:, None])


def _count_items(sets: Sequence[frozenset[str]]) -> Distances:
    return np.array([max(len(items), 1) for items in sets], dtype=np.float64)


def _count_shared(left: Sequence[frozenset[str]], right: Sequence[frozenset[str]]) -> Distances:
    """Return how many items each set of `left` has in common with each of `right`."""
    incidence = MultiLabelBinarizer(sparse_output=True).fit_transform([*left, *right])
    shared = incidence[: len(left)] @ incidence[len(left) :].T
    return np.asarray(shared.toarray(), dtype=np.float64)
