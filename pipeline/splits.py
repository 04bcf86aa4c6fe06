"""Train, validation and test rows, where only some of them are given."""

from __future__ import annotations

import random
from typing import Any

from lightpeft.errors import DataError
from pipeline.tables import Source, Table

SPLITS = ("train", "validation", "test")


def three_splits(
    tables: dict[str, Table], source: Source, *, stratify: bool, seed: int
) -> tuple[dict[str, Table], dict[str, Any]]:
    """Make up for splits that are not given, and say where each came from.

    Without test, validation becomes test. What is still missing is a seeded tenth of train.
    """
    tables, origins = dict(tables), dict(source.origins)
    if "test" not in tables and "validation" in tables:
        tables["test"] = tables.pop("validation")
        origins["test"] = origins.pop("validation")
    rng = random.Random(seed)
    tenth = len(tables["train"]["label"]) // 10
    count = min(tenth, source.most or tenth)
    for split in ("test", "validation"):
        if split not in tables:
            taken = take(tables["train"]["label"], count, stratify=stratify, rng=rng)
            tables[split] = _select(tables["train"], taken)
            left = set(range(len(tables["train"]["label"]))) - set(taken)
            tables["train"] = _select(tables["train"], sorted(left))
            origins[split] = {"from": f"{len(taken)} seeded rows of train"}
    return {split: tables[split] for split in SPLITS}, origins


def take(labels: list[Any], count: int, *, stratify: bool, rng: random.Random) -> list[int]:
    """Choose about `count` rows, the same share of each class but never all of one.

    Returns:
        Their numbers, ascending.
    """
    groups: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label if stratify else None, []).append(row)
    taken: list[int] = []
    for _, rows in sorted(groups.items(), key=lambda item: item[1]):
        share = max(round(count * len(rows) / len(labels)), 1)
        taken += rng.sample(rows, min(share, len(rows) - 1))
    if not taken:
        raise DataError(f"train has {len(labels)} rows, too few to take another split from")
    return sorted(taken)


def _select(table: Table, rows: list[int]) -> Table:
    return {name: [cells[row] for row in rows] for name, cells in table.items()}
