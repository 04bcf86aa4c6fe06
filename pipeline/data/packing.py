"""Pack several short rows into one of full length, where no row attends to another."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Columns

# Model types of transformers of which every attention kernel keeps rows apart where position ids
# restart; a test compares every supported decoder with its rows one by one.
PACKABLE = frozenset(
    "gemma2 gemma3 gemma3_text gpt2 gpt_neox llama mistral mixtral phi3 qwen2 qwen2_moe qwen3 "
    "qwen3_moe".split()
)


def check_packable(model_type: str) -> None:
    """Refuse a model whose packed rows would attend to each other.

    Raises:
        ConfigError: names the model types that can pack.
    """
    if model_type not in PACKABLE:
        raise ConfigError(
            f"data.packing must be false for model type {model_type!r}, which can't keep packed "
            f"rows apart; true works for {', '.join(sorted(PACKABLE))}"
        )


def pack_bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Assign rows to bins by best-fit decreasing.

    Args:
        lengths: tokens of each row, at most `capacity`.
        capacity: tokens of a bin.

    Returns:
        Row numbers of each bin.
    """
    bins: list[list[int]] = []
    spaces: list[int] = []  # the different free spaces, ascending
    bins_by_space: dict[int, list[int]] = {}
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        at = bisect_left(spaces, lengths[row])
        if at < len(spaces):
            space = spaces[at]
            number = bins_by_space[space].pop()
            if not bins_by_space[space]:
                del spaces[at], bins_by_space[space]
        else:
            space, number = capacity, len(bins)
            bins.append([])
        bins[number].append(row)
        left = space - lengths[row]
        if left not in bins_by_space:
            bins_by_space[left] = []
            insort(spaces, left)
        bins_by_space[left].append(number)
    return bins


def pack(rows: Dataset, path: Path, *, length: int) -> Dataset:
    """Join encoded rows to rows of at most `length` tokens, in an Arrow file.

    Position ids restart with each joined row: by these the model keeps the rows apart.
    """
    rows = rows.select_columns(["input_ids", "labels", "length"])
    bins = pack_bins(rows.with_format("numpy")["length"][:].tolist(), length)

    def join(columns: Columns) -> Columns:
        groups = columns["rows"]
        members = rows[list(chain.from_iterable(groups))]
        packed: Columns = {name: [] for name in ("input_ids", "labels", "position_ids", "length")}
        start = 0
        for group in groups:
            of_group = slice(start, start + len(group))
            start = of_group.stop
            lengths = members["length"][of_group]
            for name in ("input_ids", "labels"):
                packed[name].append(list(chain.from_iterable(members[name][of_group])))
            packed["position_ids"].append(list(chain.from_iterable(map(range, lengths))))
            packed["length"].append(sum(lengths))
        return packed

    return Dataset.from_dict({"rows": bins}).map(
        join,
        batched=True,
        remove_columns=["rows"],
        cache_file_name=str(path),
        new_fingerprint="packed",
        desc="[prepare] packing train",
    )
