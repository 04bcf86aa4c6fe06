"""Readers of local files. No type is guessed, no row is skipped, errors name the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, RecordBatch
from pyarrow.parquet import ParquetFile

from pipeline.common.errors import DataError
from pipeline.common.text import join_lines
from pipeline.data.conll import read_conll
from pipeline.data.delimited import read_delimited, refuse_repeated
from pipeline.data.image_folder import read_folder
from pipeline.data.json_files import read_json
from pipeline.tasks.schema import Row

Table = dict[str, list[Any]]  # column -> values, all columns of one length
Reader = Callable[[Path], Iterator[Row]]
_CHUNK = 10_000  # rows of a Parquet file in memory


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file one at a time; its suffix tells the format.

    CSV and TSV have a header line and hold text only. JSON holds an object per line, an array of
    objects, or SQuAD's articles; CoNLL files words with tags, and a folder an image per file.

    Raises:
        DataError: one line with the file, the line number, and what is wrong.
    """
    reader = find_reader(path)
    empty = True
    try:
        for row in reader(path):
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or join_lines(error)}") from error
    if empty:
        raise DataError(f"{path} has no rows")


def find_reader(path: Path) -> Reader:
    """Return the reader of a file or folder.

    Raises:
        DataError: there is none, or the file is missing, empty or not readable.
    """
    reader = read_folder if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} must end in one of {', '.join(_READERS)}, or be a folder")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        if path.is_file():
            with path.open("rb") as file:
                if not file.read(1):
                    raise DataError(f"{path} is empty")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    return reader


def read_table_rows(table: Table) -> Iterator[Row]:
    """Yield the rows of a table in memory."""
    for cells in zip(*table.values(), strict=True):
        yield dict(zip(table, cells, strict=True))


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        with ParquetFile(path) as file:
            refuse_repeated(path, file.schema_arrow.names)
            for number, batch in enumerate(file.iter_batches(_CHUNK)):
                try:
                    rows = batch.to_pylist()
                except (ValueError, OverflowError):
                    _refuse_unreadable(path, batch, number * _CHUNK)
                    raise
                yield from rows
    except ArrowException as error:
        raise DataError(f"{path} is not Parquet: {str(error).splitlines()[0]}") from error


def _refuse_unreadable(path: Path, batch: RecordBatch, rows_before: int) -> None:
    """Name the first value that Python can't hold, such as a time after the year 9999."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for number, value in enumerate(column, start=rows_before + 1):
            try:
                value.as_py()
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path} row {number}, column {name} of type {column.type} can't be read: "
                    f"{join_lines(error).rstrip('.')}; drop the column, or write it as text"
                ) from error


_READERS: dict[str, Reader] = {
    ".csv": partial(read_delimited, usual=","),
    ".tsv": partial(read_delimited, usual="\t"),
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": _read_parquet,
    ".conll": read_conll,
    ".txt": read_conll,
}
