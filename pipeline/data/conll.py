"""Reader of CoNLL files: a word and its tag on each line, a blank line behind each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.common.console import note
from pipeline.common.errors import DataError
from pipeline.common.text import quantify
from pipeline.tasks.schema import Row

_BLANKS = re.compile(r"[ \t]+")  # not \s: a non-breaking space may be part of a word
_DOCUMENT = re.compile(r"#\s*(begin|end) document\b")
_BIO = re.compile(r"O|[BIESLU]-.+")
_RANGE = re.compile(r"\d+[-.]\d+")  # the number of a word of several or no words in CoNLL-U
_INSPECTED_LINES = 5000
_MIN_WORDS = 20  # for a judgement of what the lines hold


class _Line(NamedTuple):
    number: int
    cells: list[str]
    tabs: int
    text: str

    def looks_like(self, other: _Line) -> bool:
        return len(self.cells) == len(other.cells) and self.tabs == other.tabs


_Block = list[_Line]


def read_conll(path: Path) -> Iterator[Row]:
    """Yield a sentence per row: words from the first column, tags from the last.

    Comments in front of a sentence are skipped: lines with # that do not look like those of words,
    or whose last cell is no tag.

    Raises:
        DataError: the first column numbers the words, or the file holds plain text.
    """
    first = [block for _, block in _read_blocks(path, most_lines=_INSPECTED_LINES) if block]
    _refuse_numbers(path, first)
    _refuse_plain_text(path, first)
    num_comments = 0
    for comments, block in _read_blocks(path):
        num_comments += len(comments)
        short = next((line for line in block if len(line.cells) < 2), None)
        if short is not None:
            word = short.cells[0]
            raise DataError(f"{path} line {short.number} has a word without a tag: {word!r}")
        if block:
            yield {
                "tokens": [line.cells[0] for line in block],
                "tags": [line.cells[-1] for line in block],
            }
    if num_comments:
        note(f"{path}: {quantify(num_comments, 'line')} of comments skipped")


def _read_blocks(path: Path, *, most_lines: int | None = None) -> Iterator[tuple[_Block, _Block]]:
    """Yield the comments in front of each sentence, and its lines; there may be none."""
    tags: set[str] = set()
    last: _Line | None = None
    for block in _split_at_blanks(path, most_lines):
        words = next((at for at, line in enumerate(block) if line.text[0] != "#"), len(block))
        comments, block = block[:words], block[words:]
        tags.update(line.cells[-1] for line in block)
        # A hashtag may be the first word of a sentence, or all of it.
        while comments and _is_word(comments[-1], block[0] if block else last, tags):
            block.insert(0, comments.pop())
        last = block[-1] if block else last
        yield comments, block


def _split_at_blanks(path: Path, most_lines: int | None) -> Iterator[_Block]:
    block: _Block = []
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(islice(file, most_lines), start=1):
            text = text.strip(" \t\r\n")
            cells = _BLANKS.split(text)
            if text and cells[0] != "-DOCSTART-":
                block.append(_Line(number, cells, text.count("\t"), text))
            elif block:
                yield block
                block = []
    if block:
        yield block


def _is_word(line: _Line, pattern: _Line | None, tags: set[str]) -> bool:
    """Return whether a line that begins with # is one of a word, as another line is."""
    alike = line.looks_like(pattern) if pattern else len(line.cells) > 1
    if not alike or _DOCUMENT.match(line.text):
        return False
    tag = line.cells[-1]
    return line.cells[0] != "#" or bool(_BIO.fullmatch(tag)) or tag in tags


def _refuse_numbers(path: Path, blocks: Sequence[_Block]) -> None:
    """Refuse a file whose first column is 1, 2, 3 ... in every sentence, as in CoNLL-U."""
    columns = [[line.cells[0] for line in block] for block in blocks]
    columns = [[cell for cell in cells if not _RANGE.fullmatch(cell)] for cells in columns]
    start = 0 if columns and columns[0][:1] == ["0"] else 1
    numbered = all(cells == [str(start + n) for n in range(len(cells))] for cells in columns)
    if numbered and any(len(cells) > 1 for cells in columns):
        raise DataError(
            f"{path} line {blocks[0][0].number}: the first column numbers the words of each "
            "sentence (1, 2, 3); keep two columns, word and tag"
        )


def _refuse_plain_text(path: Path, blocks: Sequence[_Block]) -> None:
    """Refuse lines of different lengths in a sentence, or nearly as many tags as words."""
    lines = [line for block in blocks for line in block]
    if len(lines) < _MIN_WORDS:
        return
    patterns = (block[0] if len(block) > 1 else lines[0] for block in blocks for _ in block)
    uneven = sum(
        len(line.cells) != len(pattern.cells) for line, pattern in zip(lines, patterns, strict=True)
    )
    if 3 * uneven > len(lines) or 2 * len({line.cells[-1] for line in lines}) > len(lines):
        raise DataError(
            f"{path} holds plain text, but {path.suffix} is read as CoNLL, a word and its tag a "
            'line; write text as JSON Lines, {"text": ...}, with a "label" if it has one'
        )
