"""Built-in task `docstrings`: does this description belong to this function or class name?

Rows come from the source files of the installed libraries, read with `ast`, never imported. Every
description and every name comes once. Half of the descriptions stand beside their own name; the
others beside a name of the same library that shares as many word stems with the description as
the true name does, and of those the one that looks most like it in runs of three letters. So
neither a name nor what it has in common with the text, word by word, says which row is true.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipeline.common.errors import DataError
from pipeline.data.docstrings.extraction import Pair, read_all, versions
from pipeline.data.readers import Table

ROWS = {"train": 12_000, "validation": 1_000, "test": 2_000}
LABELS = ("no", "yes")
RUN = 3  # letters that names and descriptions are compared by


def build(seed: int) -> tuple[dict[str, Table], dict[str, str]]:
    """Make the splits (text, text_pair, label) and say which versions of what they come from.

    The same seed and the same installed libraries give the same rows.
    """
    pairs = distinct(list(read_all()), random.Random(seed))
    return split(pairs, seed), versions()


def stems(text: str) -> frozenset[str]:
    """Word stems: the first five letters, so that `computes` and `computation` are one."""
    return frozenset(word[:5] for word in re.findall("[a-z]+", text.lower()))


def runs(text: str, size: int) -> frozenset[str]:
    """Runs of letters, the blanks between words among them."""
    line = f" {' '.join(re.findall('[a-z]+', text.lower()))} "
    return frozenset(line[i : i + size] for i in range(len(line) - size + 1))


def distinct(pairs: Sequence[Pair], rng: random.Random) -> list[Pair]:
    """One pair for each name and each description; `rng` picks which.

    Names are compared by their letters, descriptions by their word stems without those of the
    name: so `Returns the sum.` and `Return the sum`, or `The bare Bert model` and `The bare
    Roberta model`, are one, and near-duplicates can't lie on two sides of a split.
    """
    pool = sorted(set(pairs))
    rng.shuffle(pool)
    seen: set[str | frozenset[str]] = set()
    kept = []
    for pair in pool:
        keys = pair_keys(pair)
        if seen.isdisjoint(keys):
            seen |= keys
            kept.append(pair)
    return kept


def pair_keys(pair: Pair) -> set[str | frozenset[str]]:
    """What two pairs must not share to be told apart: see `distinct`."""
    whole = stems(pair.description)
    return {"".join(re.findall("[a-z]+", pair.name)), whole, whole - stems(pair.name)}


def split_sizes(pairs: int) -> dict[str, int]:
    """Rows of each split where there are so many pairs, half of which are to be left over."""
    share = min(1.0, pairs / (2 * sum(ROWS.values())))
    return {name: 2 * (int(rows * share) // 2) for name, rows in ROWS.items()}


def split(pairs: Sequence[Pair], seed: int) -> dict[str, Table]:
    """Balanced rows for each split; the pairs left over only lend their names to false rows."""
    sizes = split_sizes(len(pairs))
    donors = Donors(pairs[sum(sizes.values()) :], seed)
    rows = [
        (donors.lend(pair) if label == "no" else pair.name, pair.description, label)
        for pair, label in zip(pairs[: sum(sizes.values())], cycle(LABELS), strict=False)
    ]
    splits, start = {}, 0
    for name, size in sizes.items():
        columns = [list(column) for column in zip(*rows[start : start + size], strict=True)]
        splits[name] = dict(zip(("text", "text_pair", "label"), columns, strict=True))
        start += size
    return splits


class Donors:
    """Names of pairs that are no rows themselves, each lent once."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        random = np.random.default_rng(seed)
        self._groups = {
            library: _Names([p.name for p in pairs if p.library == library], random)
            for library in sorted({pair.library for pair in pairs})
        }

    def lend(self, pair: Pair) -> str:
        """A name of the pair's library that shares as many stems with its description as its own.

        Where none is left, of those that come nearest to it; of several, the one whose share of
        letter runs in the description is nearest. A name that contains the true one or lies in it
        would make the false row true: it is not taken.

        Raises:
            DataError: the library has no name left.
        """
        group = self._groups.get(pair.library)
        name = group.take(pair) if group else None
        if name is None:
            raise DataError(f"data.task docstrings: {pair.library} has too few documented names")
        return name


class _Names:
    def __init__(self, names: list[str], random: np.random.Generator) -> None:
        self.names = names
        self.stems = _Incidence([stems(name) for name in names])
        self.runs = _Incidence([runs(name, RUN) for name in names])
        self.free = np.ones(len(names), dtype=bool)
        self.order = random.random(len(names))  # breaks ties

    def take(self, pair: Pair) -> str | None:
        own, text = stems(pair.name), stems(pair.description)
        usable = self.free & (self.stems.shared(own) < np.minimum(self.stems.sizes, len(own)))
        if not usable.any():
            return None
        words = np.abs(self.stems.shared(text) - len(own & text))
        letters, text = runs(pair.name, RUN), runs(pair.description, RUN)
        shares = self.runs.shared(text) / np.maximum(self.runs.sizes, 1)
        shares -= len(letters & text) / max(len(letters), 1)
        # A share differs by less than one word; the order by less than any two shares.
        cost = words + 0.5 * np.abs(shares) + 1e-6 * self.order
        chosen = int(np.where(usable, cost, np.inf).argmin())
        self.free[chosen] = False
        return self.names[chosen]


class _Incidence:
    """Which items each of many sets holds."""

    def __init__(self, sets: Sequence[frozenset[str]]) -> None:
        self.sizes = np.array([len(found) for found in sets])
        self._columns = {item: i for i, item in enumerate(sorted(frozenset().union(*sets)))}
        cells = [(row, self._columns[item]) for row, found in enumerate(sets) for item in found]
        rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
        ones: NDArray[np.int16] = np.ones(len(cells), dtype=np.int16)
        self._has = csr_matrix(
            (ones, (rows, columns)), shape=(len(sets), len(self._columns))
        ).tocsc()

    def shared(self, items: frozenset[str]) -> NDArray[np.int64]:
        """How many of these items each set holds."""
        columns = sorted(self._columns[item] for item in items if item in self._columns)
        counts = self._has[:, columns].sum(axis=1)
        return np.asarray(counts, dtype=np.int64).ravel()
