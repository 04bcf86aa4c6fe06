"""Reader of image folders: a subfolder per class, with a file per image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.console import note
from pipeline.common.errors import DataError
from pipeline.common.text import quantify
from pipeline.tasks.schema import Row

_SPLIT = re.compile("train(ing)?|test(ing)?|val(id|idation)?|dev|eval(uation)?", re.IGNORECASE)


def read_folder(path: Path) -> Iterator[Row]:
    """Yield the files of a folder with a subfolder per class; hidden files are skipped.

    Whether a file is an image is not checked here: another file becomes a bad row.

    Raises:
        DataError: it has no subfolders with files, or its subfolders are splits.
    """
    entries = _list_visible(path)
    folders = [entry for entry in entries if entry.is_dir()]
    classes = [folder for folder in folders if next(_list_files(folder), None)]
    if not classes:
        raise DataError(
            f"{path} is a folder without subfolders of files; images need one per class"
        )
    _refuse_splits(path, classes)
    if files := len(entries) - len(folders):
        note(f"{path}: {quantify(files, 'file')} beside the class folders not read")
    if empty := [folder.name for folder in folders if folder not in classes]:
        note(f"{path}: folders without files are no classes: {', '.join(empty)}")
    for folder in classes:
        yield from ({"image": str(file), "label": folder.name} for file in _list_files(folder))


def _refuse_splits(path: Path, classes: list[Path]) -> None:
    """Refuse the folder above train and test, whose subfolders are the classes."""
    splits = [
        folder
        for folder in classes
        if _SPLIT.fullmatch(folder.name) and all(entry.is_dir() for entry in _list_visible(folder))
    ]
    if len(splits) > 1 or len(splits) == len(classes):
        names = ", ".join(folder.name for folder in splits)
        train = next((folder for folder in splits if folder.name.startswith("train")), splits[0])
        raise DataError(
            f"{path} holds {names}, not classes; name each in its setting, as data.train: {train}"
        )


def _list_files(folder: Path) -> Iterator[Path]:
    for path in _list_visible(folder):
        if path.is_dir():
            yield from _list_files(path)
        else:
            yield path


def _list_visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
