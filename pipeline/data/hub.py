"""Rows from a hub: the named tasks of the catalogue, and any data set by its id."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from datasets import Dataset, Image

from pipeline.common.errors import DataError
from pipeline.common.hub_access import advice, offline_if_unreachable
from pipeline.data.dataset_spec import DatasetSpec
from pipeline.tasks.schema import Row, Rows, Source

_VALIDATION = ("validation", "validation_matched", "dev")
_SINGLE = ("int64", "int32", "int8", "float32", "float64", "string", "bool", "null")
_LABELS = ("label", "tags", "ner_tags")
_MOST = 1000  # rows taken from train, where a split is missing


def source_of(spec: DatasetSpec, rows: dict[str, Rows], origins: dict[str, Any]) -> Source:
    """A task of the catalogue with rows from wherever they are."""
    return Source(
        rows=rows,
        origins=origins,
        form=spec.kind,
        template=spec.template,
        classes=list(spec.classes) or None,
        metric=spec.metric,
        metrics=spec.metrics,
        select=spec.selection_metric or None,
        most=_MOST,
        together=spec.group_by or None,
        neutral_prompt=spec.neutral_prompt,
    )


def fetch_task(task: str, spec: DatasetSpec) -> Source:
    """The rows of a task of the catalogue.

    Raises:
        DataError: one line: not there, not reachable, or without a split.
    """
    found = _load(task, spec.hub_id, spec.configuration, spec.revision)
    absent = sorted(set(spec.splits.values()) - set(found))
    if absent:
        raise DataError(f"data.task {task} has no split {absent[0]} among {', '.join(found)}")
    rows = {split: partial(_rows, found[name]) for split, name in spec.splits.items()}
    return source_of(spec, rows, _origins(task, spec.splits))


def fetch(task: str, *, label: str | None) -> Source:
    """Read `OWNER/NAME` or `OWNER/NAME/CONFIGURATION`.

    Splits without any label count as absent, so public validation rows may become test.

    Raises:
        DataError: one line: not there, not reachable, no train rows.
    """
    owner, *rest = task.split("/")
    found = _load(task, "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None, None)
    label = label or _label_column(found)
    names = {split: split for split in ("train", "test") if split in found}
    if public := next((name for name in _VALIDATION if name in found), None):
        names["validation"] = public
    names = {split: name for split, name in names.items() if not _unlabelled(found[name], label)}
    if "train" not in names:
        raise DataError(f"data.task {task} has no split train with labels in column {label!r}")
    classes = _class_names(found, label)
    return Source(
        rows={split: partial(_rows, found[name], label, classes) for split, name in names.items()},
        origins=_origins(task, names),
        classes=classes,
        most=_MOST,
    )


def _origins(task: str, splits: Any) -> dict[str, Any]:
    return {split: {"from": f"{task}, {name}"} for split, name in splits.items()}


def _load(task: str, home: str, configuration: str | None, revision: str | None) -> Any:
    """Call `datasets`, and say what went wrong in one line."""
    with offline_if_unreachable() as offline:
        import datasets
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        try:
            return datasets.load_dataset(home, configuration, revision=revision)
        except DatasetNotFoundError:
            raise DataError(f"data.task {task} is not on the hub, or needs a login") from None
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            if offline:
                local = "use data.task: files with local paths"
                raise DataError(advice(f"data.task {task}", local=local)) from None
            reason = " ".join(str(error).split())
            raise DataError(f"data.task {task} can't be loaded: {reason}") from None


def _label_column(found: Any) -> str:
    """The first column of a usual name; `label` if there is none."""
    names = {name for rows in found.values() for name in rows.column_names}
    return next((name for name in _LABELS if name in names), _LABELS[0])


def _class_names(found: Any, label: str) -> list[str] | None:
    """The names of the labels in the order of their numbers, where the data set says them."""
    for rows in found.values():
        feature = rows.features.get(label)
        names = getattr(getattr(feature, "feature", feature), "names", None)  # a class, or a list
        if names:
            return list(names)
    return None


def _rows(
    rows: Dataset, label: str | None = None, classes: list[str] | None = None
) -> Iterator[Row]:
    """Rows as they are, pictures not decoded.

    Where there are classes, a number becomes its name, and -1, the hub's mark of no label, None.
    """
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    for row in rows:
        if label and classes:
            value = row.get(label)
            many = isinstance(value, list)
            row[label] = [_name(n, classes) for n in value] if many else _name(value, classes)
        yield row


def _name(number: int | None, classes: list[str]) -> str | None:
    return None if number is None or number < 0 else classes[number]


def _unlabelled(rows: Dataset, label: str) -> bool:
    """Whether no row has a label; -1 in every row is the hub's way to say that none has."""
    if label not in rows.column_names:
        return False  # a form that has no labels; another one will miss the column by name
    return getattr(rows.features[label], "dtype", None) in _SINGLE and set(rows.unique(label)) <= {
        None,
        -1,
    }
