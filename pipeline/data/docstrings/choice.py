"""Built-in task `docstrings-choice`: which of four descriptions is the one of this name?

All four come from the same library and the same side of the split, and all belong to functions or
all to classes. They share as many word stems and about as many runs of letters with the name as
the true one does; pairs for which there are no such three are not asked about. Every description
is true in one row and false in three, so by itself it says nothing. It is the name's words that
are asked about and not the signature, since descriptions repeat parameters by their names.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix

from pipeline.data.docstrings.extraction import Pair, versions
from pipeline.data.docstrings.library_and_lm import Sides, read_sides
from pipeline.data.docstrings.name_matching import RUN, runs, stems
from pipeline.data.readers import Table

CHOICES = 4
BLOCK = 9_000  # pairs matched with each other: sides of different sizes are equally hard
# Distance between two descriptions as seen from a name: 1 for each word stem that one of them
# shares more with it, 4 for all letter runs of the name, and 4 for all those of the description.
_RUNS = 4.0
_FARTHEST = 1.4
_ALIKE = 0.6  # share of the shorter description's stems that makes two of them one
_NEVER = 50.0

Distances = NDArray[np.float64]


def build_choice(seed: int) -> tuple[dict[str, Table], dict[str, str]]:
    """Rows (prompt, choices, label): a name's words, four descriptions, the index of its own."""
    found, signatures = read_sides(seed)
    return choice_tables(found, signatures, seed=seed), versions()


def choice_tables(found: Sides, signatures: Mapping[Pair, str], *, seed: int) -> dict[str, Table]:
    """The questions of each side, with each label as often as the others."""
    rng = random.Random(seed)
    tables = {}
    for name, pairs in found.items():
        asked = _questions(pairs, signatures)
        rng.shuffle(asked)
        labels = [i % CHOICES for i in range(len(asked))]
        rng.shuffle(labels)
        choices = [[pair.description for pair in others] for _, others in asked]
        for label, (pair, _), texts in zip(labels, asked, choices, strict=True):
            texts.insert(label, pair.description)
        prompts = [name_prompt(pair.name) for pair, _ in asked]
        tables[name] = {"prompt": prompts, "choices": choices, "label": labels}
    return tables


def name_prompt(name: str) -> str:
    """What a description follows."""
    return f"{name}:"


def _questions(
    pairs: Sequence[Pair], signatures: Mapping[Pair, str]
) -> list[tuple[Pair, list[Pair]]]:
    """Pairs that can be asked about, with the three whose descriptions are the false choices."""
    blocks = max(1, round(len(pairs) / BLOCK))
    groups: dict[tuple[int, str, bool], list[Pair]] = {}
    for i, pair in enumerate(pairs):
        key = (i % blocks, pair.library, signatures[pair].startswith("class"))
        groups.setdefault(key, []).append(pair)
    return [
        (group[row], [group[other] for other in others])
        for _, group in sorted(groups.items())
        for row, others in match(_distances(group)).items()
    ]


def match(distances: Distances) -> dict[int, list[int]]:
    """Three others for each row, each other used three times, all of them near.

    Each round is a permutation of least total distance. Rows that got one too far away are
    dropped, the worst half first, and the rest is matched again.

    Args:
        distances: Of the other (column) from the row, `inf` where it must not be taken.
    """
    near = np.minimum(distances, _NEVER)
    kept = np.arange(len(near))
    while len(kept) >= CHOICES:
        rows, others, worst = _permutations(near[np.ix_(kept, kept)])
        far = int((worst > _FARTHEST).sum())
        if not far:
            return {int(kept[row]): kept[others[row]].tolist() for row in rows}
        worst_first = np.argsort(-worst, kind="stable")
        kept = np.sort(kept[worst_first[(far + 1) // 2 :]])
    return {}


def _permutations(near: Distances) -> tuple[NDArray[np.int64], NDArray[np.int64], Distances]:
    """The rows, three others of each, and the largest of the three distances."""
    left, others, taken = near.copy(), [], []
    for _ in range(CHOICES - 1):
        rows, columns = linear_sum_assignment(left)
        taken.append(left[rows, columns].copy())
        others.append(columns)
        left[rows, columns] = _NEVER
    return rows, np.stack(others, axis=1), np.max(taken, axis=0)


def _distances(pairs: Sequence[Pair]) -> Distances:
    """How far each description (column) is from the true one (diagonal), seen from a name (row)."""
    words = [stems(pair.description) for pair in pairs]
    letters = [runs(pair.description, RUN) for pair in pairs]
    name_letters = [runs(pair.name, RUN) for pair in pairs]
    shared = _shared(name_letters, letters)
    found = _from_true(_shared([stems(pair.name) for pair in pairs], words))
    found += _RUNS * _from_true(shared / _lengths(name_letters)[:, None])
    found += _RUNS * _from_true(shared / _lengths(letters))
    same, sizes = _shared(words, words), _lengths(words)
    found[same > _ALIKE * np.minimum(sizes, sizes[:, None])] = np.inf
    np.fill_diagonal(found, np.inf)
    return found


def _from_true(values: Distances) -> Distances:
    return np.abs(values - np.diag(values)[:, None])


def _lengths(sets: Sequence[frozenset[str]]) -> Distances:
    return np.array([max(len(found), 1) for found in sets], dtype=np.float64)


def _shared(left: Sequence[frozenset[str]], right: Sequence[frozenset[str]]) -> Distances:
    """How many items each set of `left` has in common with each of `right`."""
    items = {item: i for i, item in enumerate(sorted(frozenset().union(*left, *right)))}

    def incidence(sets: Sequence[frozenset[str]]) -> csr_matrix:
        columns = [[items[item] for item in sorted(found)] for found in sets]
        starts = np.cumsum([0, *map(len, columns)])
        flat = np.array([i for row in columns for i in row], dtype=np.int64)
        return csr_matrix((np.ones(len(flat)), flat, starts), shape=(len(sets), len(items)))

    return np.asarray((incidence(left) @ incidence(right).T).toarray(), dtype=np.float64)
