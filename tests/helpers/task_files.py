"""Files of rows, and what the pipeline makes of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.common.params import DataSection
from pipeline.data.loading import LoadedDataset, read_dataset

_UNSET = ("train", "validation", "test", "text", "label", "kind", "metric", "neutral_prompt")
AUTO = dict.fromkeys(_UNSET, "auto")
LIMITS = {"max_length": 16, "packing": False, "max_bad_rows": 0.0, "max_truncated": 1.0}


def make_section(**changes: Any) -> DataSection:
    return DataSection.model_validate({"task": "files"} | LIMITS | AUTO | changes)


def read(folder: Path, **changes: Any) -> LoadedDataset:
    """What `read_dataset` makes of these settings, with its files in an own folder."""
    return read_dataset(make_section(**changes), Path(tempfile.mkdtemp(dir=folder)), seed=0)


def list_labels(dataset: LoadedDataset) -> list[str]:
    return [label for rows in dataset.splits.values() for label in rows["label"]]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file, with the folders that its name has."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write rows as JSON lines; return the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def write_jsonl(path: Path, **columns: list[Any]) -> str:
    """Write columns as JSON lines; return the path."""
    rows = zip(*columns.values(), strict=True)
    return write_rows(path, (dict(zip(columns, row, strict=True)) for row in rows))
