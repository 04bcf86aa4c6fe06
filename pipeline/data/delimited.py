"""Reader of CSV and TSV, as pandas, R and Excel write them."""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from pipeline.common.console import note
from pipeline.common.errors import DataError
from pipeline.common.text import quantify
from pipeline.tasks.schema import Row

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_QUOTED = re.compile(r'"([^"]|"")*"')
_ESCAPED = '\\"'
_MARK = "\0"  # in place of an escaped quote while fields are told apart


def read_delimited(path: Path, usual: str) -> Iterator[Row]:
    """Yield the rows of a file with a header; all values are text.

    The separator is the usual one of the file's ending, or another where the header has only
    that. Fields may be in quotes, as in Excel; where tabs separate, a file decides as a whole.
    Quotes in fields are doubled or, where only that fits the whole file, have a backslash in front.
    """
    # The default limit of 131,072 characters is less than a long document.
    csv.field_size_limit(2**30)
    separator = _find_separator(path, usual)
    escaped = _is_escaped(path, separator)
    quoted = escaped or separator != "\t" or _is_tsv_quoted(path)
    # utf-8-sig: Excel writes a byte order mark, which would become part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(
            _mark_escaped(file) if escaped else file,
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        header: list[str] = []
        first = 1  # line of the record being read
        try:
            for cells in reader:
                if escaped:
                    cells = [cell.replace(_MARK, '"') for cell in cells]
                if cells and not header:
                    header = _name_columns(path, cells)
                elif cells:
                    if len(cells) != len(header):
                        raise DataError(
                            f"{path} {_format_lines(first, reader.line_num)} has "
                            f"{quantify(len(cells), 'field')}, the header has {len(header)}"
                        )
                    yield dict(zip(header, cells, strict=True))
                first = reader.line_num + 1
        except csv.Error as error:
            if "end of data" in str(error):
                raise DataError(
                    f"{path} line {first} opens a quote that is never closed"
                ) from error
            raise DataError(f"{path} {_format_lines(first, reader.line_num)}: {error}") from error


def _name_columns(path: Path, names: list[str]) -> list[str]:
    """Return the names of columns; one without a name, such as pandas' index, gets its number."""
    names = [name if name.strip() else f"column {at}" for at, name in enumerate(names, start=1)]
    refuse_repeated(path, names)
    return names


def refuse_repeated(path: Path, names: Iterable[str]) -> None:
    """Refuse two columns of one name, of which a row could hold one only.

    Raises:
        DataError: names them.
    """
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path} names a column twice: {', '.join(repeated)}")


def _format_lines(first: int, last: int) -> str:
    """Name the lines of a record; a quote that is closed too late makes it long."""
    return f"line {last}" if first == last else f"line {first} (quoted up to line {last})"


def _find_separator(path: Path, usual: str) -> str:
    with path.open(encoding="utf-8-sig") as file:
        header = next(filter(str.strip, file), "")
    if usual in header:
        return usual
    found = next((separator for separator in _SEPARATORS if separator in header), usual)
    if found != usual:
        note(f"{path} is separated by {_SEPARATORS[found]}")
    return found


def _is_tsv_quoted(path: Path) -> bool:
    """Return whether the quotes of a file with tabs enclose fields, rather than belong to them.

    They do if every field with a quote is enclosed, as pandas, R and Excel write it, and either
    all fields of a column are, or one contains doubled quotes. Else a quote at the start of a text
    would join lines. A file whose lines differ in their number of tabs has tabs or line breaks in
    fields if they agree once quotes are read.
    """
    rows, columns, doubled, enclosed, even = 0, Counter[int](), False, True, True
    with path.open(encoding="utf-8-sig") as file:
        lines = (line.rstrip("\n") for line in file)
        width = next(filter(str.strip, lines), "").count("\t")
        for line in filter(None, lines):
            rows += 1
            even = even and line.count("\t") == width
            for column, field in enumerate(line.split("\t") if '"' in line else ()):
                if '"' in field:
                    columns[column] += len(field) > 1 and field[0] == field[-1] == '"'
                    enclosed = enclosed and bool(_QUOTED.fullmatch(field))
                    doubled = doubled or '""' in field[1:-1]
    count, full = sum(columns.values()), rows in columns.values()
    if even:
        quoted = enclosed and (full or doubled)
    else:
        quoted = bool(columns) and _is_even(path, "\t")
    if quoted:
        note(f"{path}: fields are read without the quotes around them")
    elif count:
        note(
            f"{path}: quotes are part of the text, also those around {quantify(count, 'field')}",
        )
    return quoted


def _is_even(path: Path, separator: str, *, escaped: bool = False) -> bool:
    """Return whether all rows have equally many fields, once quotes are read."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _mark_escaped(file) if escaped else file
        try:
            rows = csv.reader(lines, delimiter=separator, strict=True)
            return len({len(row) for row in rows if row}) == 1
        except csv.Error:
            return False


def _mark_escaped(lines: Iterable[str]) -> Iterator[str]:
    return (line.replace(_ESCAPED, _MARK) for line in lines)


def _is_escaped(path: Path, separator: str) -> bool:
    """Return whether quotes in fields have a backslash in front, as R's write.table and Spark do.

    They do if the fields of the file can't be told apart otherwise; where tabs separate, the names
    of the columns must be in quotes too.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        if content.find(_ESCAPED.encode()) < 0 or content.find(_MARK.encode()) >= 0:
            return False
        header = content[:4].removeprefix(BOM_UTF8)
    if separator == "\t" and not header.startswith(b'"'):
        return False
    escaped = not _is_even(path, separator) and _is_even(path, separator, escaped=True)
    if escaped:
        note(f"{path}: {_ESCAPED} is read as a quote")
    elif separator != "\t":
        note(f"{path}: backslashes in front of quotes are part of the text")
    return escaped
