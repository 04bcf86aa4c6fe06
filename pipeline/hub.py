"""Labelled rows from a hub: the GLUE tasks by short names, and any data set with a label column."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from datasets import Dataset

from lightpeft.errors import DataError
from pipeline.form import Row, Source
from pipeline.offline import advice, offline_if_unreachable

_GLUE_HOME = "nyu-mll/glue"
_GLUE = {  # task -> (text columns, metric)
    "cola": (["sentence"], "mcc"),
    "sst2": (["sentence"], "accuracy"),
    "mrpc": (["sentence1", "sentence2"], "f1"),
    "stsb": (["sentence1", "sentence2"], "pearson"),
    "qqp": (["question1", "question2"], "f1"),
    "mnli": (["premise", "hypothesis"], "accuracy"),
    "qnli": (["question", "sentence"], "accuracy"),
    "rte": (["sentence1", "sentence2"], "accuracy"),
    "wnli": (["sentence1", "sentence2"], "accuracy"),
}
_VALIDATION = ("validation", "validation_matched", "dev")
_MOST = 1000  # rows taken from train, where a split is missing


def fetch(task: str, *, label: str | None) -> Source:
    """Read `glue/TASK`, `OWNER/NAME` or `OWNER/NAME/CONFIGURATION`.

    Rows without a label (GLUE's test) count as absent, so the public validation rows become test.

    Raises:
        DataError: one line: not there, not reachable, no train rows.
    """
    owner, *rest = task.split("/")
    text: list[str] | None = None
    metric: str | None = None
    home, configuration = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
    if owner == "glue" and (len(rest) != 1 or rest[0] not in _GLUE):
        raise DataError(f"data.task {task} is not known; GLUE's tasks are {', '.join(_GLUE)}")
    if owner == "glue":
        text, metric = _GLUE[rest[0]]
        home, configuration = _GLUE_HOME, rest[0]
    found = _load(task, home, configuration)
    label = label or "label"
    names = {split: split for split in ("train", "test") if split in found}
    if public := next((name for name in _VALIDATION if name in found), None):
        names["validation"] = public
    labelled = {split: found[name] for split, name in names.items()}
    labelled = {split: rows for split, rows in labelled.items() if _has_labels(rows, label)}
    if "train" not in labelled:
        raise DataError(f"data.task {task} has no split train with labels in column {label!r}")
    classes = _class_names(found, label)
    return Source(
        rows={s: partial(_rows, rows, label, classes) for s, rows in labelled.items()},
        origins={split: {"from": f"{task}, {names[split]}"} for split in labelled},
        text=text,
        label=label,
        classes=classes,
        metric=metric,
        most=_MOST,
    )


def _load(task: str, home: str, configuration: str | None) -> Any:
    """Call `datasets`, and say what went wrong in one line."""
    with offline_if_unreachable() as offline:
        import datasets
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        datasets.disable_progress_bars()
        try:
            return datasets.load_dataset(home, configuration)
        except DatasetNotFoundError:
            raise DataError(f"data.task {task} is not on the hub, or needs a login") from None
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            if offline:
                local = "use data.task: files with local paths"
                raise DataError(advice(f"data.task {task}", local=local)) from None
            reason = " ".join(str(error).split())
            raise DataError(f"data.task {task} can't be loaded: {reason}") from None


def _class_names(found: Any, label: str) -> list[str] | None:
    """The names of the labels in the order of their numbers, where the data set says them."""
    for rows in found.values():
        names = getattr(rows.features.get(label), "names", None)
        if names:
            return list(names)
    return None


def _rows(rows: Dataset, label: str, classes: list[str] | None) -> Iterator[Row]:
    """A class number becomes its name, and -1, the hub's mark of no label, None."""
    for row in rows:
        if classes:
            value = row.get(label)
            row[label] = None if value is None or value < 0 else classes[value]
        yield row


def _has_labels(rows: Dataset, label: str) -> bool:
    """Whether any row has a label; -1 in every row is the hub's way to say that none has."""
    return label in rows.column_names and not set(rows.unique(label)) <= {None, -1}
