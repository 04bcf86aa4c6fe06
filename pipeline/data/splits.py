"""Train, validation and test rows, where only some of the three are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray

from pipeline.common.data_card import DataOrigin, Origins
from pipeline.common.errors import DataError
from pipeline.common.text import quantify
from pipeline.tasks.schema import hash_texts

SPLITS = ("train", "validation", "test")
_CHUNK = 10_000  # rows in memory
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How rows of train are sampled for a missing split.

    Attributes:
        group_by: columns whose equal values keep rows in one split; empty: rows are independent.
        stratify_by: column of which each value keeps its proportion; None: none does.
        max_rows: at most this many rows, and at most a tenth of train; None: a tenth.
        seed: of the sampling.
    """

    group_by: tuple[str, ...] = ()
    stratify_by: str | None = None
    max_rows: int | None = None
    seed: int


def make_splits(
    tables: dict[str, Dataset], origins: Origins, spec: SplitSpec
) -> tuple[dict[str, Dataset], Origins]:
    """Return all three splits, and what the rows of each were made from.

    Without test, validation becomes test. What is still missing is sampled from train.

    Raises:
        DataError: train has too few rows, or too few groups of rows.
    """
    tables, origins = dict(tables), dict(origins)
    if "test" not in tables and "validation" in tables:
        tables["test"] = tables.pop("validation")
        origins["test"] = origins.pop("validation")
    missing = [split for split in ("test", "validation") if split not in tables]
    if missing:
        train = tables["train"]
        codes, keys = (
            _encode_strata(train, spec.stratify_by),
            _make_group_keys(train, spec.group_by),
        )
        remaining = np.arange(len(train))
        tenth, generator = len(train) // 10, np.random.default_rng(spec.seed)
        for split in missing:
            size = min(tenth, spec.max_rows or tenth)
            rows = sample_groups(codes[remaining], keys[remaining], count=size, generator=generator)
            if not len(rows):
                raise DataError(_describe_too_few(keys, missing))
            tables[split] = train.select(remaining[rows])
            remaining = np.delete(remaining, rows)
            origins[split] = DataOrigin(source=f"{quantify(len(rows), 'seeded row')} of train")
        tables["train"] = train.select(remaining)
    return {split: tables[split] for split in SPLITS}, origins


def sample_groups(
    codes: IntArray, keys: IntArray, *, count: int, generator: np.random.Generator
) -> IntArray:
    """Sample about `count` rows in whole groups, stratified.

    scikit-learn has no equal: GroupShuffleSplit samples a fraction of the groups, not of the rows,
    and does not stratify; StratifiedGroupKFold makes folds of one size only.

    Args:
        codes: stratum of each row. Each stratum contributes in proportion, at least one group, but
            never all of its groups. A group belongs to the stratum of its first row.
        keys: group of each row.
        count: rows to sample.
        generator: source of randomness; one permutation per stratum is drawn.

    Returns:
        Row numbers, ascending; none if each stratum is one group.
    """
    group = pd.factorize(keys)[0]  # numbered in the order of their first rows
    sizes = np.bincount(group)
    group_code = np.empty(len(sizes), np.int64)
    group_code[group[::-1]] = codes[::-1]  # the last write wins: the first row's code
    sampled = np.zeros(len(sizes), bool)
    for code in np.unique(group_code):
        members = np.flatnonzero(group_code == code)
        room = max(round(count * sizes[members].sum() / len(codes)), 1)
        sampled[_fill_up_to(generator.permutation(members), sizes, room)] = len(members) > 1
    return np.flatnonzero(sampled[group])


def _describe_too_few(keys: IntArray, missing: list[str]) -> str:
    """Say that train is too small for the splits that are to be sampled from it."""
    groups = len(np.unique(keys))
    of_groups = f" in groups of one context, passage or text, {groups} in all"
    return (
        f"train has {quantify(len(keys), 'row')}{of_groups if groups < len(keys) else ''}, "
        f"too few to sample {' and '.join(missing)} from"
    )


def _fill_up_to(groups: IntArray, sizes: IntArray, room: int) -> IntArray:
    """Return the groups, in order, that fit into `room` rows; the smallest one if none fits."""
    chosen = [groups[:0]]
    while room and len(fitting := groups[sizes[groups] <= room]):
        filled = np.cumsum(sizes[fitting])
        count = int(np.searchsorted(filled, room, side="right"))
        chosen.append(fitting[:count])
        room, groups = room - int(filled[count - 1]), fitting[count:]
    return np.concatenate(chosen) if len(chosen) > 1 else groups[[np.argmin(sizes[groups])]]


def _encode_strata(rows: Dataset, column: str | None) -> IntArray:
    """Return a number for each row, equal where the column is, in the order of the values."""
    if column is None:
        return np.zeros(len(rows), np.int64)
    codes = {value: code for code, value in enumerate(sorted(rows.unique(column)))}
    chunks = rows.select_columns([column]).iter(_CHUNK)
    return np.concatenate([[codes[value] for value in chunk[column]] for chunk in chunks])


def _make_group_keys(rows: Dataset, columns: tuple[str, ...]) -> IntArray:
    """Return a number for each row, equal where all of the columns are."""
    if not columns:
        return np.arange(len(rows))
    chunks = rows.select_columns([*columns]).iter(_CHUNK)
    cells = (zip(*(chunk[name] for name in columns), strict=True) for chunk in chunks)
    return np.concatenate([np.fromiter(map(hash_texts, rows), np.int64) for rows in cells])
