"""Readers of the shapes in which words with tags, answers in a text, and images are published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.common.errors import DataError
from pipeline.tasks.schema import Row

_BLANKS = re.compile(r"[ \t]+")  # not all that is space: a word may be a space that does not break
_SQUAD = re.compile(r'\s*\{[^[]*"data"\s*:\s*\[\s*\{.*"paragraphs"', re.DOTALL)
_HEAD = 10_000  # characters


def read_conll(path: Path) -> Iterator[Row]:
    """Words and tags: the first and the last column of a line; an empty line ends a sentence."""
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


def is_squad(path: Path) -> bool:
    """Whether a JSON file begins as SQuAD's do: articles under `data`, each with paragraphs."""
    with path.open(encoding="utf-8-sig") as file:
        return bool(_SQUAD.match(file.read(_HEAD)))


def read_squad(path: Path) -> Iterator[Row]:
    """The questions of SQuAD's own nested JSON, each with its paragraph.

    The file is one JSON value, and is read into memory as a whole.
    """
    with path.open(encoding="utf-8-sig") as file:
        try:
            articles = json.load(file)["data"]
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno} is not JSON: {error.msg}") from None
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for found in paragraph["qas"]:
                    yield {
                        "question": found["question"],
                        "context": paragraph["context"],
                        "answers": found.get("answers"),
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not in SQuAD's shape: {error!r}") from None


def read_folder(path: Path) -> Iterator[Row]:
    """The files of a folder with a subfolder per class, which names it; hidden files are not seen.

    Whether a file is an image is not asked here: one that is none is a bad row.
    """
    folders = [folder for folder in _seen(path) if folder.is_dir()]
    if not folders:
        raise DataError(f"{path} is a folder without subfolders; images need one per class")
    for folder in folders:
        yield from ({"image": str(file), "label": folder.name} for file in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for path in _seen(folder):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
