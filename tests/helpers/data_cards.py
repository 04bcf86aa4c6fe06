"""Data cards for tests that need no prepared data."""

from __future__ import annotations

from typing import Any

from pipeline.common.data_card import DataCard


def make_data_card(**changes: Any) -> DataCard:
    """Return the card of a task with two classes, with these entries changed."""
    entries = {
        "task": "files",
        "model": {"name": "base"},
        "kind": "text-classification",
        "task_name": "text-classification",
        "labels": ["no", "yes"],
        "metrics": ["accuracy", "f1", "mcc"],
        "max_length": 16,
    } | changes
    main = entries.get("metric", entries["metrics"][0])
    return DataCard.model_validate({"metric": main, "selection_metric": main} | entries)
