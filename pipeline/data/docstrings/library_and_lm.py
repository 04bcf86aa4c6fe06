"""Built-in tasks `docstrings-library` and `docstrings-lm`, and the splits that all tasks share.

A name and its description lie in the same split in every built-in task of one seed. So a model that
was trained on one task's training rows has seen no row that another task tests on.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline.data.docstrings.extraction import LIBRARIES, Pair, read_all_libraries
from pipeline.data.docstrings.name_matching import deduplicate, split_sizes
from pipeline.data.readers import Table

PairsBySplit = dict[str, list[Pair]]

# Of the pairs that are no rows of `docstrings`. Validation and test get more than in proportion,
# since docstrings-choice can only use pairs that have others much like them.
_SPARE_FRACTIONS = {"train": 0.4, "validation": 0.2, "test": 0.4}
_LIBRARY_SHARE = 6  # a library makes at most a sixth of the rows
# A description that names a library gives the answer, or another one, away.
_LIBRARY_NAME = re.compile(
    "|".join([*LIBRARIES, *LIBRARIES.values(), "python", r"\b(np|pd|nx)\."]), re.IGNORECASE
)


def read_pairs_by_split(seed: int) -> tuple[PairsBySplit, dict[Pair, str]]:
    """Return the pairs of each split, and all extracted pairs (with duplicates) and signatures."""
    signatures = read_all_libraries()
    pairs = deduplicate(list(signatures), random.Random(seed))
    return assign_splits(pairs), signatures


def assign_splits(pairs: Sequence[Pair]) -> PairsBySplit:
    """Return all pairs by split: first those that are rows of `docstrings`, then spare ones."""
    sizes = split_sizes(len(pairs))
    start, spare_start, fraction = 0, sum(sizes.values()), 0.0
    num_spare = len(pairs) - spare_start
    pairs_by_split = {}
    for name, size in sizes.items():
        fraction += _SPARE_FRACTIONS[name]
        spare_end = len(pairs) - num_spare + round(num_spare * fraction)
        pairs_by_split[name] = [*pairs[start : start + size], *pairs[spare_start:spare_end]]
        start, spare_start = start + size, spare_end
    return pairs_by_split


def build_library(seed: int) -> dict[str, Table]:
    """Return rows (text, label) by split: a description and its library."""
    return make_library_tables(read_pairs_by_split(seed)[0])


def make_library_tables(pairs_by_split: PairsBySplit) -> dict[str, Table]:
    """Return the rows of `docstrings` and half as many more, without those that are too easy.

    Left out are descriptions that name a library, and of a large library what exceeds a sixth of
    the rows.
    """
    tables = {}
    for name, size in _split_sizes(pairs_by_split).items():
        counts, rows = Counter[str](), []
        for pair in pairs_by_split[name][: size * 3 // 2]:
            is_full = counts[pair.library] >= size // _LIBRARY_SHARE
            if not is_full and not _LIBRARY_NAME.search(pair.description):
                counts[pair.library] += 1
                rows.append(pair)
        texts, labels = [pair.description for pair in rows], [pair.library for pair in rows]
        tables[name] = {"text": texts, "label": labels}
    return tables


def measure_library_baseline(train: Table, test: Table) -> float:
    """Return the accuracy on `test` of a logistic regression on the words of `train`."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000))
    model.fit(train["text"], train["label"])
    return float(model.score(test["text"], test["label"]))


def build_lm(seed: int) -> dict[str, Table]:
    """Return rows (prompt, completion) by split: a signature and its docstring's text."""
    return make_lm_tables(*read_pairs_by_split(seed))


def make_lm_tables(
    pairs_by_split: PairsBySplit, signatures: Mapping[Pair, str]
) -> dict[str, Table]:
    """Return the pairs that are rows of `docstrings`, each as its source code would start."""
    return {
        name: {
            "prompt": [make_code_prompt(signatures[pair]) for pair in pairs_by_split[name][:size]],
            "completion": [pair.description for pair in pairs_by_split[name][:size]],
        }
        for name, size in _split_sizes(pairs_by_split).items()
    }


def make_code_prompt(signature: str) -> str:
    """Return a definition up to the opening quotes of its docstring."""
    return f'{signature}\n    """'


def _split_sizes(pairs_by_split: PairsBySplit) -> dict[str, int]:
    return split_sizes(sum(map(len, pairs_by_split.values())))
