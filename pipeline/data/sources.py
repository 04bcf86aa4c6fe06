"""Where the rows of `data.task` come from: built in, local files, the catalogue, or the hub."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path

from pipeline.common.data_card import DataOrigin, Origins
from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.files import hash_file
from pipeline.common.params import DataSection
from pipeline.common.text import find_nearest
from pipeline.data import hub
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.dataset_spec import DatasetSpec
from pipeline.data.docstrings.builtin_tasks import BUILTIN_TASKS, build_task
from pipeline.data.readers import find_reader, read_rows
from pipeline.data.splits import SPLITS
from pipeline.tasks.schema import RawDataset, RowReader, describe_exception


def resolve_source(section: DataSection, *, seed: int, for_preview: bool = False) -> RawDataset:
    """Return the raw rows that `data.task` and `data.train` etc. name, not read yet.

    A preview leaves out what takes all rows: digests of files, baselines of built-in tasks.

    Raises:
        ConfigError: there is no such task, or other settings do not fit it.
        DataError: the rows are not available.
    """
    task = section.task
    if task in BUILTIN_TASKS:
        _check_auto(section, "text", "template", "label", "kind", "revision")
        return build_task(task, seed=seed, with_baseline=not for_preview)
    spec = _load_user_spec(task) or CATALOG.get(task)
    if spec is None:
        _check_task_name(task)
    else:
        _check_auto(section, "kind", "text", "template", "label")
    if task == "files" or section.train is not None:
        if spec is None and task != "files":
            raise ConfigError(f"data.train is for data.task: files or a named task, got {task}")
        if section.revision is not None:
            raise ConfigError(
                f"data.revision is for rows of the hub, not of data.train {section.train}; "
                f"got {section.revision!r}"
            )
        rows, origins = _find_local_rows(section, with_digests=not for_preview)
        return (
            hub.make_raw_dataset(spec, rows, origins)
            if spec
            else RawDataset(rows=rows, origins=origins)
        )
    if spec is None:
        return hub.load_hub_id(task, label=section.label, revision=section.revision)
    if not spec.hub_id:
        raise ConfigError(f"data.train must be a file's path for data.task {task}, got auto")
    return hub.load_spec(task, spec, revision=section.revision)


def _check_task_name(task: str) -> None:
    """Refuse a name that is neither `files` nor looks like a hub id."""
    if task == "files" or re.match(r"(?!(super_)?glue/).+/", task):
        return
    nearest = find_nearest(task, [*BUILTIN_TASKS, "files", *CATALOG])
    hint = f"; did you mean {nearest}?" if nearest else ""
    raise ConfigError(
        f"data.task must be {', '.join(BUILTIN_TASKS)}, files, a hub id such as glue/sst2, or "
        f"one of {', '.join(name for name in CATALOG if '/' not in name)}; got {task!r}{hint}"
    )


def _check_auto(section: DataSection, *keys: str) -> None:
    """Refuse settings that the task itself determines."""
    for key in keys:
        if (value := getattr(section, key)) is not None:
            raise ConfigError(
                f"data.{key} must be auto with data.task: {section.task}, got {value!r}"
            )


def _find_local_rows(
    section: DataSection, *, with_digests: bool
) -> tuple[dict[str, RowReader], Origins]:
    """Return rows and origins of the files that params.yaml names."""
    paths = {split: getattr(section, split) for split in SPLITS}
    files = {split: Path(path) for split, path in paths.items() if path is not None}
    for path in files.values():  # before a large file is hashed
        find_reader(path)
    rows: dict[str, RowReader] = {split: partial(read_rows, path) for split, path in files.items()}
    return rows, {split: _describe_origin(path, with_digests) for split, path in files.items()}


def _describe_origin(path: Path, with_digest: bool) -> DataOrigin:
    """Describe a file by path and digest; what a folder holds is hashed row by row."""
    digest = hash_file(path) if with_digest and path.is_file() else None
    return DataOrigin(source=str(path), sha256=digest)


def _load_user_spec(task: str) -> DatasetSpec | None:
    """Return the spec that a user's file defines (`FILE.py:NAME`), or None for any other task.

    The file may import modules beside it, also while its template runs.
    """
    file, _, name = task.rpartition(":")
    if not file.endswith(".py"):
        return None
    if not Path(file).is_file():
        raise ConfigError(f"data.task {task}: {file} does not exist")
    if (folder := str(Path(file).resolve().parent)) not in sys.path:
        sys.path.append(folder)  # last, so that no module beside the file hides a library
    try:
        spec = runpy.run_path(file).get(name)
    except PipelineError as error:
        raise ConfigError(f"data.task {task}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"data.task {task}: {describe_exception(error)}") from error
    if not isinstance(spec, DatasetSpec):
        raise ConfigError(f"data.task {task}: {file} defines no DatasetSpec named {name!r}")
    return spec
