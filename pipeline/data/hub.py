"""Rows from the hub: the data sets of the catalogue, and any other by its id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, Image

from pipeline.common.data_card import DataOrigin, HubDataset, Origins
from pipeline.common.errors import DataError
from pipeline.common.hub_access import CLIENT_ERRORS, Repository, open_repository
from pipeline.common.text import join_lines
from pipeline.data.dataset_spec import DatasetSpec
from pipeline.tasks.schema import RawDataset, Row, RowReader

_VALIDATION_NAMES = ("validation", "validation_matched", "dev")
_LABEL_NAMES = ("label", "labels", "tags", "ner_tags")
_SCALAR_TYPES = ("int64", "int32", "int8", "float32", "float64", "string", "bool", "null")
_COMMIT = re.compile("[0-9a-f]{40}")
_MAX_SAMPLED_ROWS = 1000  # for a split that is sampled from train


def make_raw_dataset(spec: DatasetSpec, rows: dict[str, RowReader], origins: Origins) -> RawDataset:
    """Return the raw data set of a spec with these rows, from the hub or from local files."""
    return RawDataset(
        rows=rows,
        origins=origins,
        kind=spec.kind,
        template=spec.template,
        classes=list(spec.classes) or None,
        metric=spec.metric,
        metrics=spec.metrics,
        selection_metric=spec.selection_metric or None,
        max_drawn=_MAX_SAMPLED_ROWS,
        group_by=spec.group_by or None,
        neutral_prompt=spec.neutral_prompt,
    )


def load_spec(task: str, spec: DatasetSpec, *, revision: str | None = None) -> RawDataset:
    """Return the raw data set of the catalogue or of a user's spec.

    Args:
        task: data.task.
        spec: where the rows are.
        revision: branch, tag or commit; None: the spec's own, or what the hub has now.

    Raises:
        DataError: the hub or a split is not available; one line.
    """
    splits, origin = _load(task, spec.hub_id, spec.configuration, revision or spec.revision)
    missing = sorted(set(spec.splits.values()) - set(splits))
    if missing:
        raise DataError(f"data.task {task} has no split {missing[0]} among {', '.join(splits)}")
    rows: dict[str, RowReader] = {
        split: partial(_iterate_rows, splits[name]) for split, name in spec.splits.items()
    }
    return replace(
        make_raw_dataset(spec, rows, _make_origins(task, spec.splits)), hub_dataset=origin
    )


def load_hub_id(task: str, *, label: str | None, revision: str | None = None) -> RawDataset:
    """Return the raw data set `OWNER/NAME` or `OWNER/NAME/CONFIGURATION`.

    A split without any label counts as missing, so validation rows may become test.

    Args:
        task: data.task.
        label: label column; None: a usual name.
        revision: branch, tag or commit; None: what the hub has now.

    Raises:
        DataError: the data set is not available, or has no labelled train rows; one line.
    """
    owner, *rest = task.split("/")
    hub_id, configuration = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
    splits, origin = _load(task, hub_id, configuration, revision)
    label = label or _find_label_column(splits)
    names = {split: split for split in ("train", "test") if split in splits}
    if validation := next((name for name in _VALIDATION_NAMES if name in splits), None):
        names["validation"] = validation
    names = {
        split: name for split, name in names.items() if not _is_unlabelled(splits[name], label)
    }
    if "train" not in names:
        raise DataError(f"data.task {task} has no split train with labels in column {label!r}")
    classes = _read_class_names(splits, label)
    rows: dict[str, RowReader] = {
        split: partial(_iterate_rows, splits[name], label, classes) for split, name in names.items()
    }
    return RawDataset(
        rows=rows,
        origins=_make_origins(task, names),
        classes=classes,
        max_drawn=_MAX_SAMPLED_ROWS,
        hub_dataset=origin,
    )


def _make_origins(task: str, names: Mapping[str, str]) -> Origins:
    return {split: DataOrigin(source=f"{task}, {name}") for split, name in names.items()}


def _load(
    task: str, hub_id: str, configuration: str | None, revision: str | None
) -> tuple[DatasetDict, HubDataset]:
    """Call `datasets.load_dataset`, turn its errors into one line, and find the commit it read."""
    repository = Repository(
        repo_type="dataset", name=hub_id, revision=revision, setting=f"data.task {task}"
    )
    local = "use data.task: files with local paths"
    with open_repository(repository, local=local) as access:
        import datasets
        from datasets.exceptions import DatasetsError

        try:
            splits = datasets.load_dataset(hub_id, configuration, revision=revision)
        except (DatasetsError, *CLIENT_ERRORS) as error:
            reason = join_lines(error)
            raise DataError(f"data.task {task} can't be loaded: {reason}") from error
    commit = _find_commit(splits)
    # Where `datasets` can't read what it was asked for, it takes the newest rows of its cache.
    wanted = access.commit or revision
    if wanted and commit not in (None, wanted):
        raise DataError(
            f"data.task {task}: {access.failure or 'the download failed'}, and the newest commit "
            f"in the hub's cache is {commit}, not {wanted}; connect to the hub, or set "
            "data.revision to the commit in the cache"
        )
    return splits, HubDataset(id=hub_id, requested_revision=revision, revision=commit)


def _find_commit(splits: DatasetDict) -> str | None:
    """Return the commit that the rows were read from, with or without a network.

    `datasets` names the cache folder of a data set of the hub by it.
    """
    folders = (Path(file["filename"]).parent for s in splits.values() for file in s.cache_files)
    return next((folder.name for folder in folders if _COMMIT.fullmatch(folder.name)), None)


def _find_label_column(splits: DatasetDict) -> str:
    """Return the first usual name of a label column that is present, or `label`."""
    names = {name for rows in splits.values() for name in rows.column_names}
    return next((name for name in _LABEL_NAMES if name in names), _LABEL_NAMES[0])


def _read_class_names(splits: DatasetDict, label: str) -> list[str] | None:
    """Return the names of the labels in the order of their ids, if the data set has them."""
    for rows in splits.values():
        feature = rows.features.get(label)
        names = getattr(getattr(feature, "feature", feature), "names", None)  # of a class or a list
        if names:
            return list(names)
    return None


def _iterate_rows(
    rows: Dataset, label: str | None = None, classes: list[str] | None = None
) -> Iterator[Row]:
    """Yield the rows with images not decoded, and label ids replaced by class names.

    An id of -1, the hub's mark of a missing label, becomes None.
    """
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    number = 0
    try:
        for row in rows:
            number += 1
            if label and classes:
                ids = row.get(label)
                is_list = isinstance(ids, list)
                row[label] = (
                    [_name_class(i, classes) for i in ids] if is_list else _name_class(ids, classes)
                )
            yield row
    except (ValueError, OverflowError) as error:  # such as a time after the year 9999
        reason = join_lines(error)
        raise DataError(f"row {number + 1} of {rows.split} can't be read: {reason}") from error


def _name_class(number: int | None, classes: list[str]) -> str | None:
    return None if number is None or number < 0 else classes[number]


def _is_unlabelled(rows: Dataset, label: str) -> bool:
    """Return whether no row has a label other than -1."""
    if label not in rows.column_names:
        return False  # the schema may have no labels; otherwise it reports the missing column
    is_scalar = getattr(rows.features[label], "dtype", None) in _SCALAR_TYPES
    return is_scalar and set(rows.unique(label)) <= {None, -1}
