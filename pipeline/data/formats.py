"""Readers of published formats: CoNLL files and image folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import DataError
from pipeline.tasks.schema import Row


def read_folder(path: Path) -> Iterator[Row]:
    """Yield the files of a folder with a subfolder per class; hidden files are skipped.

    Whether a file is an image is not checked here: another file becomes a bad row.
    """
    folders = [folder for folder in _visible(path) if folder.is_dir()]
    if not folders:
        raise DataError(f"{path} is a folder without subfolders; images need one per class")
    for folder in folders:
        yield from ({"image": str(file), "label": folder.name} for file in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for path in _visible(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
