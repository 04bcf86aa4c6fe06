"""Built-in tasks `docstrings-library` and `docstrings-lm`, and the sides that all of them share.

A name and its description lie on the same side in every built-in task of one seed, so a model
that was trained on one task's training rows has seen no row that another one is tested on.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline.data.docstrings.extraction import LIBRARIES, Pair, read_all, versions
from pipeline.data.docstrings.name_matching import distinct, split_sizes
from pipeline.data.readers import Table

Sides = dict[str, list[Pair]]  # by split

# Of the pairs that are no rows of `docstrings`: validation and test get more than their part,
# because docstrings-choice can only ask about pairs that have others much like them.
_SPARE = {"train": 0.4, "validation": 0.2, "test": 0.4}
_MOST = 6  # no library is more than a sixth of the rows
# A description that names a library gives its own or another one away.
_NAMED = re.compile(
    "|".join([*LIBRARIES, *LIBRARIES.values(), "python", r"\b(np|pd|nx)\."]), re.IGNORECASE
)


def read_sides(seed: int) -> tuple[Sides, dict[Pair, str]]:
    """The sides of a seed, and all that was found, near-duplicates included, with signatures."""
    found = read_all()
    return sides(distinct(list(found), random.Random(seed))), found


def sides(pairs: Sequence[Pair]) -> Sides:
    """All pairs, by split: first those that are rows of `docstrings`, then some of the others."""
    sizes = split_sizes(len(pairs))
    start, extra, part = 0, sum(sizes.values()), 0.0
    spare = len(pairs) - extra
    found = {}
    for name, size in sizes.items():
        part += _SPARE[name]
        end = len(pairs) - spare + round(spare * part)
        found[name] = [*pairs[start : start + size], *pairs[extra:end]]
        start, extra = start + size, end
    return found


def build_library(seed: int) -> tuple[dict[str, Table], dict[str, str]]:
    """Rows (text, label): a description, and the library that it comes from."""
    found, _ = read_sides(seed)
    return library_tables(found), versions()


def library_tables(found: Sides) -> dict[str, Table]:
    """The rows of `docstrings` and half as many more, less what makes the question too easy.

    Left out are descriptions that name a library, and of a large library what is more than a
    sixth of the rows.
    """
    tables = {}
    for name, size in _sizes(found).items():
        taken, rows = Counter[str](), []
        for pair in found[name][: size * 3 // 2]:
            if taken[pair.library] < size // _MOST and not _NAMED.search(pair.description):
                taken[pair.library] += 1
                rows.append(pair)
        texts, labels = [pair.description for pair in rows], [pair.library for pair in rows]
        tables[name] = {"text": texts, "label": labels}
    return tables


def library_baseline(train: Table, test: Table) -> float:
    """Accuracy on `test` of a logistic regression on the words of `train`."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=1000))
    model.fit(train["text"], train["label"])
    return float(model.score(test["text"], test["label"]))


def build_lm(seed: int) -> tuple[dict[str, Table], dict[str, str]]:
    """Rows (prompt, completion): a signature up to its docstring's quotes, and the description."""
    found, signatures = read_sides(seed)
    return lm_tables(found, signatures), versions()


def lm_tables(found: Sides, signatures: Mapping[Pair, str]) -> dict[str, Table]:
    """The pairs that are rows of `docstrings`, each as its source code would begin."""
    return {
        name: {
            "prompt": [code_prompt(signatures[pair]) for pair in found[name][:size]],
            "completion": [pair.description for pair in found[name][:size]],
        }
        for name, size in _sizes(found).items()
    }


def code_prompt(signature: str) -> str:
    """A definition up to where its docstring begins."""
    return f'{signature}\n    """'


def _sizes(found: Sides) -> dict[str, int]:
    return split_sizes(sum(map(len, found.values())))
