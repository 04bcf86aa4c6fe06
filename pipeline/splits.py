"""Train, validation and test rows, where only some of them are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from lightpeft.errors import DataError

SPLITS = ("train", "validation", "test")


def three_splits(
    tables: dict[str, Dataset],
    origins: dict[str, Any],
    *,
    by: str | None,
    most: int | None,
    seed: int,
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """Make up for splits that are not given, and say where each came from.

    Without test, validation becomes test. What is still missing is a seeded tenth of train, at
    most `most` rows, with the same share of each value of column `by`.
    """
    tables, origins = dict(tables), dict(origins)
    if "test" not in tables and "validation" in tables:
        tables["test"] = tables.pop("validation")
        origins["test"] = origins.pop("validation")
    generator, codes = np.random.default_rng(seed), _codes(tables["train"], by)
    tenth = len(tables["train"]) // 10
    count = min(tenth, most or tenth)
    for split in ("test", "validation"):
        if split not in tables:
            train = tables["train"]
            taken = take(codes, count, generator=generator)
            left = np.setdiff1d(np.arange(len(train)), taken)
            tables[split], tables["train"] = train.select(taken), train.select(left)
            codes = codes[left]
            origins[split] = {"from": f"{len(taken)} seeded rows of train"}
    return {split: tables[split] for split in SPLITS}, origins


def take(
    codes: NDArray[np.int64], count: int, *, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Choose about `count` rows, the same share of each code but never all of one.

    Returns:
        Their numbers, ascending.
    """
    taken = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        share = max(round(count * len(rows) / len(codes)), 1)
        taken.append(generator.permutation(rows)[: min(share, len(rows) - 1)])
    found = np.sort(np.concatenate(taken))
    if not len(found):
        raise DataError(f"train has {len(codes)} rows, too few to take another split from")
    return found


def _codes(rows: Dataset, by: str | None) -> NDArray[np.int64]:
    """A number for each different value of a column."""
    if by is None:
        return np.zeros(len(rows), np.int64)
    numbers = {value: number for number, value in enumerate(sorted(rows.unique(by)))}
    chunks = rows.select_columns([by]).iter(10_000)
    return np.concatenate([[numbers[value] for value in chunk[by]] for chunk in chunks])
