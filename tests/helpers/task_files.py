"""Files of rows, and what the pipeline makes of them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pipeline.common.params import DataSection
from pipeline.data.loading import LoadedDataset, read_dataset

_UNSET = ("train", "validation", "test", "text", "label", "kind", "metric", "neutral_prompt")
AUTO = dict.fromkeys(_UNSET, "auto")
LIMITS = {"max_length": 16, "packing": False, "max_bad_rows": 0.0, "max_truncated": 1.0}


def section(**changes: Any) -> DataSection:
    return DataSection.model_validate({"task": "files"} | LIMITS | AUTO | changes)


def read(folder: Path, **changes: Any) -> LoadedDataset:
    """What `read_dataset` makes of these settings, with its files in an own folder."""
    return read_dataset(section(**changes), Path(tempfile.mkdtemp(dir=folder)), seed=0)


def labels_of(found: LoadedDataset) -> list[str]:
    return [label for rows in found.splits.values() for label in rows["label"]]


def jsonl(path: Path, **columns: list[Any]) -> str:
    rows = zip(*columns.values(), strict=True)
    path.write_text(
        "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    )
    return str(path)
