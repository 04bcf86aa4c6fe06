"""Readers of JSON: an object a line, one array of objects, or SQuAD's articles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.common.console import note
from pipeline.common.errors import DataError
from pipeline.tasks.schema import Row

_ARRAY = re.compile(r'\s*(?:\[\s*[{\]]|\{[^[]*"([^"\\]*)"\s*:\s*\[\s*\{)')
_BETWEEN = " \t\r\n,"
_INSPECTED_CHARACTERS = 10_000
_CHUNK = 2**20  # characters
_LONGEST_OBJECT = 2**27  # characters


def read_json(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, whichever way it holds them; one is in memory at a time.

    An array may be the whole file; in .json, also the entry `data` of one object, or any entry of
    an object that is written in several lines.
    """
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(_INSPECTED_CHARACTERS)
        found = _ARRAY.match(head)
        if not found or (found[1] is not None and not _is_one_object(path, head, found[1])):
            yield from _read_lines(path)
            return
        opening = "[" if found[1] is None else '{"":['
        for number, item in enumerate(_stream_array(path, file, head, found.end() - 1, opening), 1):
            if not isinstance(item, dict):
                kind = type(item).__name__
                raise DataError(f"{path}: element {number} is not a JSON object but a {kind}")
            if "paragraphs" in item:
                yield from _read_squad_questions(path, item)
            else:
                yield item


def _is_one_object(path: Path, head: str, name: str) -> bool:
    """Return whether an object at a file's start is the file, rather than the row of a line."""
    line, line_break, _ = head.lstrip().partition("\n")
    several_lines = bool(line_break) and not line.rstrip().endswith("}")
    return path.suffix.lower() == ".json" and (name == "data" or several_lines)


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            with _shorten_errors(path, number):
                row = json.loads(line.strip(), object_pairs_hook=_build_object)
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise DataError(f"{path} line {number} is not a JSON object but a {kind}")
            yield row


def _stream_array(
    path: Path, file: TextIO, buffer: str, at: int, opening: str
) -> Iterator[dict[str, Any]]:
    """Yield the elements of an array, and say what else the file holds.

    Args:
        path: for messages.
        file: positioned behind the buffer.
        buffer: text that the array begins in.
        at: where its first element begins.
        opening: with the text behind the array, this makes a value of JSON.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_build_object)
    line = 1  # of the start of the buffer
    while True:
        while at < len(buffer) and buffer[at] in _BETWEEN:
            at += 1
        if buffer[at : at + 1] == "]":
            _check_rest(path, opening + buffer[at:] + file.read(_CHUNK))
            return
        with _shorten_errors(path, line):
            try:
                value, at = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError:
                more = file.read(max(_CHUNK, len(buffer)))
                if not more or len(buffer) > _LONGEST_OBJECT:
                    raise
                line += buffer.count("\n", 0, at)
                buffer, at = buffer[at:] + more, 0
                continue
        yield value


def _check_rest(path: Path, text: str) -> None:
    """Refuse a file that goes on behind its array; name the entries that are not read."""
    try:
        rest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} goes on behind its array; files with an object a line end in .jsonl"
        ) from error
    entries = rest.items() if isinstance(rest, dict) else ()
    if others := [name for name, value in entries if name and isinstance(value, list | dict)]:
        note(f"{path}: entries {', '.join(others)} are not read")


@contextmanager
def _shorten_errors(path: Path, line: int) -> Iterator[None]:
    """Say in one line what is wrong with JSON whose text begins at a line of a file."""
    try:
        yield
    except json.JSONDecodeError as error:
        number = line + error.lineno - 1
        raise DataError(f"{path} line {number} is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, or deep nesting
        reason = str(error).partition(";")[0]
        raise DataError(f"{path} line {line} can't be read: {reason}") from error


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, of which no key may be repeated."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {repeated!r} twice")
    return found


def _read_squad_questions(path: Path, article: dict[str, Any]) -> Iterator[Row]:
    """Yield the questions of an article of SQuAD, each with its paragraph."""
    try:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                yield {
                    "question": item["question"],
                    "context": paragraph["context"],
                    "answers": item.get("answers"),
                }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not have SQuAD's structure: {error!r}") from error
