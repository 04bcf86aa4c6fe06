"""Built-in task `docstrings`: does this description belong to this function or class name?

Rows come from the source files of the installed libraries, parsed with `ast`, never imported. Each
description and each name occurs once. Half of the descriptions are paired with their own name. The
others are paired with a distractor: a name of the same library that shares as many word prefixes
with the description as the true name does, and of those the one with the most similar share of
character trigrams. So neither a name nor its word overlap with the text tells true rows from false.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import MultiLabelBinarizer

from pipeline.common.errors import DataError
from pipeline.data.docstrings.extraction import Pair, read_all_libraries
from pipeline.data.readers import Table

ROWS = {"train": 12_000, "validation": 1_000, "test": 2_000}
LABELS = ("no", "yes")
NGRAM_SIZE = 3  # of the character n-grams by which names and descriptions are compared
_PREFIX_LENGTH = 5


def build_name_matching(seed: int) -> dict[str, Table]:
    """Return rows (text, text_pair, label) by split.

    The same seed and the same installed libraries give the same rows.
    """
    return make_rows(deduplicate(list(read_all_libraries()), random.Random(seed)), seed)


def extract_word_prefixes(text: str) -> frozenset[str]:
    """Return the first five letters of each word: `computes` and `computation` are equal."""
    return frozenset(word[:_PREFIX_LENGTH] for word in re.findall("[a-z]+", text.lower()))


def extract_char_ngrams(text: str, size: int) -> frozenset[str]:
    """Return the character n-grams of the words joined by spaces."""
    line = f" {' '.join(re.findall('[a-z]+', text.lower()))} "
    return frozenset(line[i : i + size] for i in range(len(line) - size + 1))


def deduplicate(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """Return one pair for each name and each description; `rng` picks which, and their order.

    Names are compared by their letters, descriptions by their word prefixes with and without those
    of the name: `Returns the sum.` equals `Return the sum`, and `The bare Bert model` equals `The
    bare Roberta model`, so near-duplicates can't lie in two splits.
    """
    candidates = sorted(set(pairs))
    rng.shuffle(candidates)
    seen: set[str | frozenset[str]] = set()
    kept = []
    for pair in candidates:
        keys = make_duplicate_keys(pair)
        if seen.isdisjoint(keys):
            seen |= keys
            kept.append(pair)
    return kept


def make_duplicate_keys(pair: Pair) -> set[str | frozenset[str]]:
    """Return the keys of which two pairs must share none, see `deduplicate`."""
    prefixes = extract_word_prefixes(pair.description)
    letters = "".join(re.findall("[a-z]+", pair.name))
    return {letters, prefixes, prefixes - extract_word_prefixes(pair.name)}


def split_sizes(num_pairs: int) -> dict[str, int]:
    """Return the (even) rows of each split; at least half of the pairs are left as distractors."""
    scale = min(1.0, num_pairs / (2 * sum(ROWS.values())))
    return {name: 2 * (int(rows * scale) // 2) for name, rows in ROWS.items()}


def make_rows(pairs: Sequence[Pair], seed: int) -> dict[str, Table]:
    """Return balanced rows by split; pairs that are no rows provide the names of false rows."""
    sizes = split_sizes(len(pairs))
    num_rows = sum(sizes.values())
    distractors = DistractorPool(pairs[num_rows:], seed)
    rows = [
        (distractors.draw(pair) if label == "no" else pair.name, pair.description, label)
        for pair, label in zip(pairs[:num_rows], cycle(LABELS), strict=False)
    ]
    tables, start = {}, 0
    for name, size in sizes.items():
        columns = [list(column) for column in zip(*rows[start : start + size], strict=True)]
        tables[name] = dict(zip(("text", "text_pair", "label"), columns, strict=True))
        start += size
    return tables


class DistractorPool:
    """Names of pairs that are no rows, each drawn at most once."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._libraries = {
            library: _LibraryNames([p.name for p in pairs if p.library == library], generator)
            for library in sorted({pair.library for pair in pairs})
        }

    def draw(self, pair: Pair) -> str:
        """Return the name of the pair's library whose overlap with its description is most alike.

        The number of shared word prefixes counts first, then the fraction of shared character
        trigrams. A name that contains the true one, or is contained in it, is never drawn: it
        would make the false row true.

        Raises:
            DataError: the library has no name left.
        """
        names = self._libraries.get(pair.library)
        name = names.draw(pair) if names else None
        if name is None:
            raise DataError(f"data.task docstrings: {pair.library} has too few documented names")
        return name


class _LibraryNames:
    """The names of one library that are not drawn yet."""

    def __init__(self, names: list[str], generator: np.random.Generator) -> None:
        self.names = names
        self.prefixes = _ItemSets([extract_word_prefixes(name) for name in names])
        self.ngrams = _ItemSets([extract_char_ngrams(name, NGRAM_SIZE) for name in names])
        self.available = np.ones(len(names), dtype=bool)
        self.tie_breaker = generator.random(len(names))

    def draw(self, pair: Pair) -> str | None:
        name, text = extract_word_prefixes(pair.name), extract_word_prefixes(pair.description)
        contained = self.prefixes.count_shared(name) >= np.minimum(self.prefixes.sizes, len(name))
        usable = self.available & ~contained
        if not usable.any():
            return None
        prefix_gap = np.abs(self.prefixes.count_shared(text) - len(name & text))
        name_ngrams = extract_char_ngrams(pair.name, NGRAM_SIZE)
        text_ngrams = extract_char_ngrams(pair.description, NGRAM_SIZE)
        ngram_gap = self.ngrams.count_shared(text_ngrams) / np.maximum(self.ngrams.sizes, 1)
        ngram_gap -= len(name_ngrams & text_ngrams) / max(len(name_ngrams), 1)
        # ngram_gap is below 1, less than one prefix; the tie breaker is less than two n-gram gaps.
        cost = prefix_gap + 0.5 * np.abs(ngram_gap) + 1e-6 * self.tie_breaker
        chosen = int(np.where(usable, cost, np.inf).argmin())
        self.available[chosen] = False
        return self.names[chosen]


class _ItemSets:
    """Many sets of items as a sparse incidence matrix (set x item)."""

    def __init__(self, sets: Sequence[frozenset[str]]) -> None:
        self.sizes = np.array([len(items) for items in sets])
        binarizer = MultiLabelBinarizer(sparse_output=True)
        self._matrix = binarizer.fit_transform(sets).tocsc()
        self._columns = {item: column for column, item in enumerate(binarizer.classes_)}

    def count_shared(self, items: frozenset[str]) -> NDArray[np.int64]:
        """Return how many of these items each set holds, shape (sets,)."""
        columns = sorted(self._columns[item] for item in items if item in self._columns)
        counts = self._matrix[:, columns].sum(axis=1)
        return np.asarray(counts, dtype=np.int64).ravel()
