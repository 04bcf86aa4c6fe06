"""Readers of published formats: CoNLL files and image folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import DataError
from pipeline.tasks.schema import Row

_BLANKS = re.compile(r"[ \t]+")  # not \s: a non-breaking space may be part of a word


def read_conll(path: Path) -> Iterator[Row]:
    """Yield a sentence per row: words from the first column, tags from the last."""
    words: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            cells = _BLANKS.split(line.strip(" \t\r\n"))
            if cells == [""] or cells[0] == "-DOCSTART-":
                if words:
                    yield {"tokens": words, "tags": tags}
                words, tags = [], []
            elif len(cells) < 2:
                raise DataError(f"{path} line {number} has a word without a tag: {cells[0]!r}")
            else:
                words.append(cells[0])
                tags.append(cells[-1])
    if words:
        yield {"tokens": words, "tags": tags}


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
