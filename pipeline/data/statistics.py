"""What is counted in the encoded rows of a split, and the limits that data.max_... set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from pipeline.common.data_card import SplitStatistics
from pipeline.common.errors import DataError
from pipeline.common.params import PrepareParams
from pipeline.common.text import inflect, quantify
from pipeline.tasks.base import Processor, Task, Values


def describe(rows: Dataset, task: Task, processor: Processor) -> SplitStatistics:
    """Return the statistics of a split: lengths, truncated rows, unknown tokens, rows per class."""
    lengths, lost = np.sort(read_column(rows, "length")), read_column(rows, "num_truncated")
    classes = task.card.labels
    counts = _count_classes(rows, len(classes)) if classes else ()
    unknown, only_unknown = count_unknown(rows, task.token_columns, processor)
    return SplitStatistics(
        rows=len(lengths),
        mean_tokens=round(float(lengths.mean()), 2),
        p50_tokens=int(lengths[len(lengths) // 2]),
        p95_tokens=int(lengths[int(len(lengths) * 0.95)]),
        max_tokens=int(lengths[-1]),
        truncated=int((lost > 0).sum()),
        tokens_lost=int(lost.sum()),
        most_lost=int(lost.max()),
        unknown=unknown,
        only_unknown=only_unknown,
        labels={name: int(n) for name, n in zip(classes, counts, strict=True)},
    )


def read_column(rows: Dataset, column: str) -> Values:
    """Return a column as an array, without the list that `datasets` would make first."""
    values: Values = rows.data.column(column).to_numpy()
    return values


def _count_classes(rows: Dataset, classes: int) -> NDArray[np.int64]:
    """Count the rows (or tags, where a row has a list of them) of each class."""
    labels = rows.data.column("label").combine_chunks()
    flat = pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels
    return np.bincount(flat.to_numpy(), minlength=classes)


def count_unknown(
    rows: Dataset, columns: Sequence[str], processor: Processor
) -> tuple[float | None, int | None]:
    """Return the fraction of tokens that are unknown, and how many rows hold no other token.

    Special tokens do not count. Both are None if the tokenizer has no token for unknown text, or
    uses one that also begins or ends a text, as tokenizers of bytes do.
    """
    unknown_id = getattr(processor, "unk_token_id", None)
    names = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    if not columns or unknown_id in (None, *(getattr(processor, name, None) for name in names)):
        return None, None
    special = [token for token in processor.all_special_ids if token != unknown_id]
    unknown, known = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for name in columns:
        start = 0
        for part in rows.data.column(name).chunks:
            ids, owners = _flatten(part)
            counted = np.isin(ids, special, invert=True) & (ids >= 0)
            for counts, chosen in ((unknown, ids == unknown_id), (known, ids != unknown_id)):
                of_row = np.bincount(owners[counted & chosen], minlength=len(part))
                counts[start : start + len(part)] += of_row
            start += len(part)
    total = int(unknown.sum() + known.sum())
    only_unknown = int(((unknown > 0) & (known == 0)).sum())
    return round(int(unknown.sum()) / max(total, 1), 6), only_unknown


def _flatten(lists: pa.Array) -> tuple[Values, Values]:
    """Return the token ids of lists, or of lists of lists, and the row that each is in."""
    owners = np.arange(len(lists))
    while pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type):
        owners = owners[np.asarray(pc.list_parent_indices(lists))]
        lists = pc.list_flatten(lists)
    return np.asarray(lists), owners


def check_limits(split: SplitStatistics, params: PrepareParams, name: str) -> None:
    """Refuse a split with too many truncated rows, or too many unknown tokens.

    Raises:
        DataError: names the counts and the settings.
    """
    section = params.data
    if split.truncated > section.max_truncated * split.rows:
        raise DataError(
            f"{split.truncated:,} of {quantify(split.rows, 'row')} of {name} "
            f"{inflect(split.truncated, 'is', 'are')} longer than data.max_length "
            f"{section.max_length} (by up to {quantify(split.most_lost, 'token')}), more than "
            f"data.max_truncated {section.max_truncated:g} allows; raise either"
        )
    if split.unknown is not None and split.unknown > section.max_unknown:
        raise DataError(
            f"{split.unknown:.1%} of the tokens of {name} are unknown to model.name "
            f"{params.model.name} ({split.only_unknown:,} of {quantify(split.rows, 'row')} "
            f"{inflect(split.only_unknown or 0, 'holds', 'hold')} no other), "
            f"more than data.max_unknown {section.max_unknown:g} allows; take a model for this "
            "language or script, or raise it"
        )


def count_repeats(keys: dict[str, Values]) -> dict[str, int]:
    """Count the rows of validation and test that repeat a row of train."""
    others = ("validation", "test")
    return {split: int(np.isin(keys[split], keys["train"]).sum()) for split in others}
