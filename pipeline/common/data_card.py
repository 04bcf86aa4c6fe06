"""What the stage `prepare` wrote: its card and its rows. Damage is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from pyarrow import ArrowException

from pipeline.common.errors import DataError
from pipeline.common.files import read_json

_KEYS = ("kind", "labels", "metric", "metrics", "select", "max_length")


def read_card(data: Path) -> dict[str, Any]:
    """The data card.

    Raises:
        DataError: it is missing or damaged.
    """
    path = data / "card.json"
    card: dict[str, Any] = read_json(path)
    missing = [key for key in _KEYS if key not in card]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; run the stage prepare again")
    return card


def read_rows(data: Path, split: str) -> Dataset:
    """The tokenized rows of `train`, `validation` or `test`.

    Raises:
        DataError: they are missing or damaged.
    """
    try:
        return load_from_disk(str(data / split))
    except (OSError, ValueError, ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{data / split} is damaged or missing ({reason}); run the stage prepare again"
        ) from None


def repeats_told(card: dict[str, Any]) -> list[str]:
    """How many rows of validation and test repeat train, in a line; nothing if none does."""
    told = [
        f"{count:,} of {card['splits'][split]['rows']:,} rows of {split}"
        for split, count in card.get("repeats_of_train", {}).items()
        if count
    ]
    return [f"{' and '.join(told)} repeat a row of train"] if told else []
