"""Train, validation and test rows, where only some of them are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray

from pipeline.common.errors import DataError
from pipeline.tasks.schema import text_key

SPLITS = ("train", "validation", "test")
_CHUNK = 10_000  # rows in memory
Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How rows of train are drawn for a split that is missing.

    Attributes:
        together: columns whose equal values keep rows on one side; empty: none does.
        by: a column of which each value keeps its share; None: none does.
        most: rows at most; None: a tenth.
        seed: of the order in which they are drawn.
    """

    together: tuple[str, ...] = ()
    by: str | None = None
    most: int | None = None
    seed: int


def three_splits(
    tables: dict[str, Dataset], origins: dict[str, Any], draw: Draw
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """Make up for splits that are not given, and say where each came from.

    Without test, validation becomes test. What is still missing is a seeded tenth of train.

    Raises:
        DataError: train has too few rows, or too few that do not belong together.
    """
    tables, origins = dict(tables), dict(origins)
    if "test" not in tables and "validation" in tables:
        tables["test"] = tables.pop("validation")
        origins["test"] = origins.pop("validation")
    missing = [split for split in ("test", "validation") if split not in tables]
    if missing:
        train = tables["train"]
        codes, keys, left = _codes(train, draw.by), _keys(train, draw.together), _numbers(train)
        count, generator = len(train) // 10, np.random.default_rng(draw.seed)
        for split in missing:
            size = min(count, draw.most or count)
            taken = take(codes[left], keys[left], count=size, generator=generator)
            tables[split], left = train.select(left[taken]), np.delete(left, taken)
            origins[split] = {"from": f"{len(taken)} seeded rows of train"}
        tables["train"] = train.select(left)
    return {split: tables[split] for split in SPLITS}, origins


def take(codes: Codes, keys: Codes, *, count: int, generator: np.random.Generator) -> Codes:
    """Choose about `count` rows, the same share of each code but never all of one.

    Rows of one key are chosen together; their code is that of the first of them.

    Returns:
        Their numbers, ascending.
    """
    group = pd.factorize(keys)[0]  # numbered as their first rows come
    sizes = np.bincount(group)
    code = np.empty(len(sizes), np.int64)
    code[group[::-1]] = codes[::-1]  # what is written last stays: the first row's
    taken = np.zeros(len(sizes), bool)
    for value in np.unique(code):
        mine = np.flatnonzero(code == value)
        share = max(round(count * sizes[mine].sum() / len(codes)), 1)
        taken[_filling(generator.permutation(mine), sizes, share)] = len(mine) > 1
    found = np.flatnonzero(taken[group])
    if not len(found):
        rows = f"{len(codes)} rows"
        if len(sizes) < len(codes):
            rows += f" in groups of one context, passage or text, {len(sizes)} in all"
        raise DataError(f"train has {rows}, too few to take another split from")
    return found


def _filling(groups: Codes, sizes: Codes, room: int) -> Codes:
    """The first groups that fit one after the other in so many rows; the smallest if none does."""
    found = [groups[:0]]
    while room and len(fitting := groups[sizes[groups] <= room]):
        filled = np.cumsum(sizes[fitting])
        count = int(np.searchsorted(filled, room, side="right"))
        found.append(fitting[:count])
        room, groups = room - int(filled[count - 1]), fitting[count:]
    return np.concatenate(found) if len(found) > 1 else groups[[np.argmin(sizes[groups])]]


def _numbers(rows: Dataset) -> Codes:
    return np.arange(len(rows))


def _codes(rows: Dataset, by: str | None) -> Codes:
    """A number for each different value of a column."""
    if by is None:
        return np.zeros(len(rows), np.int64)
    numbers = {value: number for number, value in enumerate(sorted(rows.unique(by)))}
    chunks = rows.select_columns([by]).iter(_CHUNK)
    return np.concatenate([[numbers[value] for value in chunk[by]] for chunk in chunks])


def _keys(rows: Dataset, together: tuple[str, ...]) -> Codes:
    """A number for each row, the same where the columns are."""
    if not together:
        return _numbers(rows)
    chunks = rows.select_columns([*together]).iter(_CHUNK)
    cells = (zip(*(chunk[name] for name in together), strict=True) for chunk in chunks)
    return np.concatenate([np.fromiter(map(text_key, rows), np.int64) for rows in cells])
