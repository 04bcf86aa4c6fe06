"""Rows to predict: read from a file or a command line, checked, and completed with targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.common.errors import DataError
from pipeline.common.text import join_some
from pipeline.data.cleaning import BadRow, RowCleaner
from pipeline.data.readers import read_rows
from pipeline.tasks.schema import Row, RowSchema


def read_input(source: Path | Sequence[str], schema: RowSchema) -> Iterator[Row]:
    """Yield rows as they were given.

    Args:
        source: a file of rows, in any format that the pipeline reads; or the texts of one row.
        schema: of the rows.

    Raises:
        DataError: the file can't be read (names the line), or the texts are too many.
    """
    if isinstance(source, Path):
        yield from read_rows(source)
    else:
        yield schema.inputs.read_texts(source)


def complete_rows(
    source: Path | Sequence[str], schema: RowSchema, classes: Sequence[str]
) -> Iterator[Row]:
    """Yield clean rows with targets that no prediction depends on.

    Args:
        source, schema: as in `read_input`.
        classes: class names.

    Raises:
        DataError: a row is bad; names its number, from 1.
    """

    def complete(row: Row) -> Row:
        _check_columns(row, schema)
        given = {name: row[name] for name in schema.inputs.names if row.get(name) is not None}
        return schema.inputs.add_target(given, classes)

    cleaner = RowCleaner(task="predict", schema=schema, template=complete)
    name = source if isinstance(source, Path) else "--text"
    for number, row in enumerate(read_input(source, schema), start=1):
        where = f"{name} row {number:,}"
        try:
            clean_row = cleaner.clean(row, where)
        except BadRow as bad:
            raise DataError(f"{where}: {bad.reason}{f' ({bad.name})' if bad.name else ''}") from bad
        yield {column: clean_row.get(column) for column in schema.features}


def _check_columns(row: Row, schema: RowSchema) -> None:
    """Refuse a row that lacks a column.

    Raises:
        BadRow: names the column.
    """
    forms = schema.inputs.required
    missing = [[name for name in form if row.get(name) is None] for form in forms]
    if all(missing):
        name = min(missing, key=len)[0]
        needed = " or ".join(" and ".join(form) for form in forms)
        has = f"it has {join_some([*row])}; " if row else ""
        raise BadRow(f"no {name!r}", f"{has}{schema.kind} needs {needed}")
