"""A task of params.yaml -> clean rows in three splits."""

from __future__ import annotations

import difflib
import re
import runpy
import sys
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.common.files import file_hash
from pipeline.common.params import DataSection
from pipeline.data import hub
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.cleaning import Dropped, drop_unknown, write_clean
from pipeline.data.dataset_spec import REGRESSION_METRICS, DatasetSpec
from pipeline.data.docstrings.builtin_tasks import BUILT_IN, built_in
from pipeline.data.readers import read_rows
from pipeline.data.splits import SPLITS, Draw, three_splits
from pipeline.tasks.registry import FORMS, form_of
from pipeline.tasks.schema import Form, Rows, Source, in_a_line

_LOOKED_AT = 1000  # first rows of train, by which columns are found


@dataclass(frozen=True, kw_only=True)
class LoadedDataset:
    """Clean rows of a form, as Arrow files in the folder that `read_dataset` was given.

    Attributes:
        form: their columns.
        splits: train, validation and test.
        classes: in the order of their ids; empty where there are none.
        source: what is known of where they came from.
        origins: by split.
        dropped: bad rows by split and reason: how many, and the first.
    """

    form: Form
    splits: dict[str, Dataset]
    classes: list[str]
    source: Source
    origins: dict[str, Any]
    dropped: dict[str, DroppedRows]


def read_dataset(section: DataSection, folder: Path, *, seed: int) -> LoadedDataset:
    """Read what `data` of params.yaml asks for.

    Raises:
        ConfigError: the task does not exist or does not fit.
        DataError: the rows can't be read, or make no task.
    """
    source = find(section, seed=seed)
    first = list(islice(source.rows["train"](), _LOOKED_AT))
    if not first:
        raise DataError(f"data.task {section.task} has no rows to train on")
    known = section.kind or source.form
    form = FORMS[known] if known else form_of(section, first)
    template = source.template or form.template(section, first)
    dropped, tables = Dropped(section.max_bad_rows), {}
    for split, rows in source.rows.items():
        path = folder / f"{split}.arrow"
        tables[split] = write_clean(rows, path, split=split, make=(form, template), dropped=dropped)
    classes = form.labels(tables, _known(section, form, source))
    if form.label and not classes and source.metric not in (None, *REGRESSION_METRICS):
        raise DataError(
            f"data.task {section.task} is measured by {source.metric}, which needs classes, but "
            "labels of train are decimals"
        )
    for split in tables if form.label else ():
        tables[split] = drop_unknown(
            tables[split], split=split, column=form.label, classes=classes, dropped=dropped
        )
    draw = Draw(
        together=_together(form, source, tables["train"]),
        by="label" if classes and "label" in form.features else None,
        most=source.most,
        seed=seed,
    )
    splits, origins = three_splits(tables, source.origins, draw)
    return LoadedDataset(
        form=form,
        splits=splits,
        classes=classes,
        source=source,
        origins=origins,
        dropped=dropped.counts,
    )


def find(section: DataSection, *, seed: int) -> Source:
    """The rows of a task: built in, local files, of the catalogue, a user's own, or a hub id.

    Raises:
        ConfigError: there is no such task.
        DataError: its rows are not there.
    """
    task = section.task
    if task in BUILT_IN:
        return built_in(section, seed=seed)
    entry = _own_entry(task) or CATALOG.get(task)
    if entry is None and task != "files" and not re.match(r"(?!(super_)?glue/).+/", task):
        close = difflib.get_close_matches(task, [*BUILT_IN, "files", *CATALOG], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"data.task must be {', '.join(BUILT_IN)}, files, a hub id such as glue/sst2, or "
            f"one of {', '.join(name for name in CATALOG if '/' not in name)}; got {task!r}{hint}"
        )
    for key in ("kind", "text", "label") if entry else ():
        if (value := getattr(section, key)) is not None:
            raise ConfigError(f"data.{key} must be auto with data.task: {task}, got {value!r}")
    if task == "files" or section.train is not None:
        rows, origins = _local(section)
        if task == "files":
            return Source(rows=rows, origins=origins)
        if entry is None:
            raise ConfigError(f"data.train is for data.task: files or a named task, got {task}")
        return hub.source_of(entry, rows, origins)
    if entry is None:
        return hub.fetch(task, label=section.label)
    if not entry.hub_id:
        raise ConfigError(f"data.train must be a file's path for data.task {task}, got auto")
    return hub.fetch_task(task, entry)


def _known(section: DataSection, form: Form, source: Source) -> list[str] | None:
    """The classes that are known; none at all where the main metric is one of scores."""
    scores = form.name == "classify" and (source.metric or section.metric) in REGRESSION_METRICS
    return [] if scores and source.classes is None else source.classes


def _together(form: Form, source: Source, train: Dataset) -> tuple[str, ...]:
    """Columns whose equal values keep rows in one split."""
    if source.together is not None:
        if source.together not in form.features:
            raise ConfigError(
                f"group_by must be a column of the kind {form.name}, one of "
                f"{', '.join(form.features)}; got {source.together!r}"
            )
        return (source.together,)
    alone = form.together or form.texts
    lacking = train.data.column("group").null_count if "group" in form.features else len(train)
    if lacking == len(train):
        return alone
    return ("group", *alone) if lacking else ("group",)


def _local(section: DataSection) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Rows and origins of the files that params.yaml names."""
    paths = {split: getattr(section, split) for split in SPLITS}
    given = {split: Path(path) for split, path in paths.items() if path is not None}
    for path in given.values():  # before anything long: a wrong path is found at once
        next(read_rows(path))
    rows: dict[str, Rows] = {split: partial(read_rows, path) for split, path in given.items()}
    return rows, {split: _origin(path) for split, path in given.items()}


def _own_entry(task: str) -> DatasetSpec | None:
    """The entry that a user's own file defines, as `FILE.py:NAME`; None for any other task.

    The file may import what is beside it, also when its template is called.
    """
    file, _, name = task.rpartition(":")
    if not file.endswith(".py"):
        return None
    if not Path(file).is_file():
        raise ConfigError(f"data.task {task}: {file} is not there")
    if (folder := str(Path(file).resolve().parent)) not in sys.path:
        sys.path.append(folder)  # behind all others: what is beside the file hides no library
    try:
        entry = runpy.run_path(file).get(name)
    except PipelineError as error:
        raise ConfigError(f"data.task {task}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"data.task {task}: {in_a_line(error)}") from error
    if not isinstance(entry, DatasetSpec):
        raise ConfigError(f"data.task {task}: {file} defines no DatasetSpec named {name!r}")
    return entry


def _origin(path: Path) -> dict[str, str]:
    """A folder's files are hashed one by one, as rows."""
    return {"from": str(path)} | ({} if path.is_dir() else {"sha256": file_hash(path)})
