"""Readers of published formats: CoNLL files, SQuAD's JSON, image folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.errors import DataError
from pipeline.tasks.schema import Row

_BLANKS = re.compile(r"[ \t]+")  # not \s: a non-breaking space may be part of a word
_SQUAD = re.compile(r'\s*\{[^[]*"data"\s*:\s*\[\s*\{.*"paragraphs"', re.DOTALL)
_INSPECTED_CHARACTERS = 10_000


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


def parse_json(path: Path, text: str, line: int | None = None) -> Any:
    """Return the value of a file, or of one line of it.

    Raises:
        DataError: it is not JSON, or holds a value that Python refuses.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {line or error.lineno} is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, or deep nesting
        place, reason = f"{path} line {line}" if line else path, str(error).partition(";")[0]
        raise DataError(f"{place} can't be read: {reason}") from error


def is_squad(path: Path) -> bool:
    """Return whether a JSON file starts like SQuAD's: `data` with articles of paragraphs."""
    with path.open(encoding="utf-8-sig") as file:
        return bool(_SQUAD.match(file.read(_INSPECTED_CHARACTERS)))


def read_squad(path: Path) -> Iterator[Row]:
    """Yield the questions of SQuAD's nested JSON, each with its paragraph.

    The file is a single JSON value and is read into memory completely.
    """
    with path.open(encoding="utf-8-sig") as file:
        articles = parse_json(path, file.read())["data"]
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for item in paragraph["qas"]:
                    yield {
                        "question": item["question"],
                        "context": paragraph["context"],
                        "answers": item.get("answers"),
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not have SQuAD's structure: {error!r}") from error


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
