"""A task of params.yaml -> clean rows in three splits. Built in, local files, or from a hub."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from lightpeft.config import DataSection
from lightpeft.errors import ConfigError, DataError
from lightpeft.files import file_hash
from pipeline import docstrings, hub
from pipeline.clean import Dropped, write_clean
from pipeline.form import Form, Source
from pipeline.kinds import FORMS, form_of
from pipeline.overlap import baseline_accuracy
from pipeline.splits import SPLITS, three_splits
from pipeline.tables import read_rows, table_rows

_LOOKED_AT = 1000  # first rows of train, by which columns are found


@dataclass(frozen=True, kw_only=True)
class Task:
    """Clean rows of a form, as Arrow files in the folder that `read_task` was given.

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
    dropped: dict[str, Any]


def read_task(section: DataSection, folder: Path, *, seed: int) -> Task:
    """Read what `data` of params.yaml asks for.

    Raises:
        ConfigError: the task does not exist or does not fit.
        DataError: the rows can't be read, or make no task.
    """
    source = find(section, seed=seed)
    first = list(islice(source.rows["train"](), _LOOKED_AT))
    if not first:
        raise DataError(f"data.task {section.task} has no rows to train on")
    form = FORMS[section.kind or source.form] if section.kind or source.form else form_of(first)
    template = source.template or form.template(_filled(section, source), first)
    dropped, tables = Dropped(section.max_bad_rows), {}
    for split, rows in source.rows.items():
        path = folder / f"{split}.arrow"
        tables[split] = write_clean(rows, path, split=split, make=(form, template), dropped=dropped)
    classes = form.labels(tables, source.classes)
    splits, origins = three_splits(
        tables,
        source.origins,
        by="label" if classes and "label" in form.features else None,
        most=source.most,
        seed=seed,
    )
    return Task(
        form=form,
        splits=splits,
        classes=classes,
        source=source,
        origins=origins,
        dropped=dropped.counts,
    )


def _filled(section: DataSection, source: Source) -> DataSection:
    """The section, with the columns that the source knows in place of auto."""
    known = {"text": section.text or source.text, "label": section.label or source.label}
    return section.model_copy(update=known)


def find(section: DataSection, *, seed: int) -> Source:
    """The rows of a task: built in, from local files, or anything with a slash from the hub."""
    if section.task == "docstrings":
        return _docstrings(section, seed)
    if section.task == "files":
        paths = {split: getattr(section, split) for split in SPLITS}
        given = {split: Path(path) for split, path in paths.items() if path is not None}
        for path in given.values():  # before anything long: a wrong path is found at once
            next(read_rows(path))
        return Source(
            rows={split: partial(read_rows, path) for split, path in given.items()},
            origins={split: _origin(path) for split, path in given.items()},
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


def _origin(path: Path) -> dict[str, str]:
    """A folder's files are hashed one by one, as rows."""
    return {"from": str(path)} | ({} if path.is_dir() else {"sha256": file_hash(path)})


def _docstrings(section: DataSection, seed: int) -> Source:
    if section.text is not None or section.label is not None:
        key = "text" if section.text is not None else "label"
        raise ConfigError(f"data.{key} must be auto with data.task: docstrings")
    tables, versions = docstrings.build(seed)
    baseline = {
        "name": "word and character overlap, logistic regression",
        "accuracy": round(baseline_accuracy(tables["train"], tables["test"]), 4),
    }
    return Source(
        rows={split: partial(table_rows, table) for split, table in tables.items()},
        origins=versions,
        form="classify",
        template=dict,
        classes=list(docstrings.LABELS),
        baseline=baseline,
    )
