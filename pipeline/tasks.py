"""A task of params.yaml -> labelled rows in three splits. Built in, local files, or from a hub."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightpeft.config import DataSection
from lightpeft.errors import ConfigError, DataError
from lightpeft.files import file_hash
from pipeline import docstrings, hub, labels
from pipeline.overlap import baseline_accuracy
from pipeline.splits import SPLITS, three_splits
from pipeline.tables import Source, Table, read_table

CLASS_METRICS = ("accuracy", "f1", "mcc")
SCORE_METRICS = ("pearson", "spearman")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Rows ready for a tokenizer: columns text, text_pair (of pairs), label (class id or score)."""

    splits: dict[str, Table]
    classes: list[str]  # empty: the labels are scores
    metric: str
    origins: dict[str, Any]
    dropped: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, Any] | None = None


def read_task(section: DataSection, *, seed: int) -> Task:
    """Read what `data` of params.yaml asks for.

    Raises:
        ConfigError: the task or metric does not exist or does not fit.
        DataError: the rows can't be read, or make no task.
    """
    source = _find(section, seed=seed)
    names = _columns(section, source)
    tables, dropped = {}, Counter[str]()
    for split, table in source.tables.items():
        columns = {key: table[name] for key, name in names.items()}
        tables[split] = _complete(columns, dropped=dropped, split=split, names=names)
    classes = labels.class_names(tables["train"]["label"], source.classes)
    for split, table in tables.items():
        table["label"] = labels.encode(table["label"], classes=classes, split=split)
    if classes and len(set(tables["train"]["label"])) < 2:
        raise DataError(f"data.label: column {names['label']!r} of train has one class only")
    splits, origins = three_splits(tables, source, stratify=bool(classes), seed=seed)
    return Task(
        splits=splits,
        classes=classes,
        metric=_metric(section, source, bool(classes)),
        origins=origins,
        dropped=dict(sorted(dropped.items())),
        baseline=source.baseline,
    )


def _find(section: DataSection, *, seed: int) -> Source:
    """The registry: `docstrings`, `files`, or anything with a slash from the hub."""
    if section.task == "docstrings":
        if section.text is not None or section.label is not None:
            key = "text" if section.text is not None else "label"
            raise ConfigError(f"data.{key} must be auto with data.task: docstrings")
        tables, versions = docstrings.build(seed)
        baseline = {
            "name": "word and character overlap, logistic regression",
            "accuracy": round(baseline_accuracy(tables["train"], tables["test"]), 4),
        }
        return Source(
            tables=tables,
            origins=versions,
            text=["text", "text_pair"],
            classes=list(docstrings.LABELS),
            baseline=baseline,
        )
    if section.task == "files":
        paths = {split: getattr(section, split) for split in SPLITS}
        given = {split: Path(path) for split, path in paths.items() if path is not None}
        return Source(
            tables={split: read_table(path) for split, path in given.items()},
            origins={
                split: {"from": paths[split], "sha256": file_hash(path)}
                for split, path in given.items()
            },
        )
    if "/" not in section.task:
        known = ("docstrings", "files")
        close = difflib.get_close_matches(section.task, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"data.task must be docstrings, files, or a hub id such as glue/sst2, "
            f"got {section.task!r}{hint}"
        )
    return hub.fetch(section.task, label=section.label)


def _columns(section: DataSection, source: Source) -> dict[str, str]:
    """Which column is text, text_pair and label; each must be in every table."""
    label = section.label or source.label
    _check_column(source, label, "data.label")
    text = [section.text] if isinstance(section.text, str) else section.text or source.text
    if text is None:
        table = source.tables["train"]
        text = [name for name in table if name != label and labels.is_text(table[name])]
        if len(text) not in (1, 2):
            raise DataError(
                f"data.text auto needs one or two columns of text beside {label!r}, found "
                f"{', '.join(text) or 'none'}; name them in data.text; columns: {', '.join(table)}"
            )
    for name in text:
        _check_column(source, name, "data.text")
    if len({*text, label}) < len(text) + 1:
        raise ConfigError(f"data.text and data.label must differ, got {text} and {label!r}")
    return dict(zip(("text", "text_pair"), text, strict=False)) | {"label": label}


def _check_column(source: Source, name: str, key: str) -> None:
    for split, table in source.tables.items():
        if name not in table:
            close = difflib.get_close_matches(name, list(table), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{key}: {split} has no column {name!r} among {', '.join(table)}{hint}")


def _complete(table: Table, *, dropped: Counter[str], split: str, names: dict[str, str]) -> Table:
    """The rows that have all their texts and a label; the others are counted."""
    rows = []
    for row in zip(*table.values(), strict=True):
        *texts, label = row
        for name, text in zip(names.values(), texts, strict=False):
            if text is not None and not isinstance(text, str):
                raise DataError(f"data.text: {name!r} of {split} holds {text!r}, not text")
        if labels.is_missing(label):
            dropped["no label"] += 1
        elif not all(text and text.strip() for text in texts):
            dropped["empty text"] += 1
        else:
            rows.append(row)
    if not rows:
        raise DataError(f"{split} has no row with both text and label")
    return {key: list(cells) for key, cells in zip(table, zip(*rows, strict=True), strict=True)}


def _metric(section: DataSection, source: Source, classes: bool) -> str:
    allowed = CLASS_METRICS if classes else SCORE_METRICS
    if section.metric == "auto":
        return source.metric or allowed[0]
    if section.metric not in allowed:
        kind = "labels are classes" if classes else "labels are decimals, a regression"
        raise ConfigError(
            f"data.metric must be auto or one of {', '.join(allowed)} where {kind}, "
            f"got {section.metric}"
        )
    return section.metric
