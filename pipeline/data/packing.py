"""Several short rows in one of full length, none of which sees another."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Columns

# Model types of transformers that keep rows apart where positions start again, in each kernel;
# tests hold every supported decoder against its rows one by one.
PACKABLE = frozenset(
    "gemma2 gemma3 gemma3_text gpt2 gpt_neox llama mistral mixtral phi3 qwen2 qwen2_moe qwen3 "
    "qwen3_moe".split()
)


def check_packable(model_type: str) -> None:
    """Refuse a model that would let rows see each other.

    Raises:
        ConfigError: names those that don't.
    """
    if model_type not in PACKABLE:
        raise ConfigError(
            f"data.packing must be false for model type {model_type!r}, which can't keep packed "
            f"rows apart; true works for {', '.join(sorted(PACKABLE))}"
        )


def bins(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers that go together, at most `size` tokens each: best fit, the longest first."""
    found: list[list[int]] = []
    spaces: list[int] = []  # left in some bin, ascending
    there: dict[int, list[int]] = {}  # space left -> the bins that have it
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        at = bisect_left(spaces, lengths[row])
        if at < len(spaces):
            space = spaces[at]
            place = there[space].pop()
            if not there[space]:
                del spaces[at], there[space]
        else:
            space, place = size, len(found)
            found.append([])
        found[place].append(row)
        left = space - lengths[row]
        if left not in there:
            there[left] = []
            insort(spaces, left)
        there[left].append(place)
    return found


def pack(rows: Dataset, path: Path, *, length: int) -> Dataset:
    """Encoded rows joined to rows of at most `length` tokens, in a file.

    Positions start again with each joined row: by that the model tells them apart.
    """
    rows = rows.select_columns(["input_ids", "labels", "length"])
    chosen = bins(rows.with_format("numpy")["length"][:].tolist(), length)

    def join(columns: Columns) -> Columns:
        groups = columns["rows"]
        found = rows[list(chain.from_iterable(groups))]
        made: Columns = {name: [] for name in ("input_ids", "labels", "position_ids", "length")}
        start = 0
        for group in groups:
            part = slice(start, start + len(group))
            start = part.stop
            for name in ("input_ids", "labels"):
                made[name].append(list(chain.from_iterable(found[name][part])))
            made["position_ids"].append(
                list(chain.from_iterable(map(range, found["length"][part])))
            )
            made["length"].append(sum(found["length"][part]))
        return made

    return Dataset.from_dict({"rows": chosen}).map(
        join,
        batched=True,
        remove_columns=["rows"],
        cache_file_name=str(path),
        new_fingerprint="packed",
        desc="[prepare] packing train",
    )
