"""Which columns of a data set its template reads, and which it ignores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.tasks.schema import Row, Template, list_columns

_TRIED_ROWS = 8
_ROW = "row"  # in place of a field, for columns that decide whether there is a row


def find_columns(
    template: Template, rows: Sequence[Row]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return the columns that each field of a clean row depends on, and those that none does.

    Templates are functions, so this is found by trial: in some rows a column's value is exchanged
    for another row's, or None.

    Args:
        template: maps a raw row to a clean one.
        rows: raw rows, in order.

    Returns:
        Field -> columns, and the columns that change nothing; both empty if no row can be mapped.
    """
    tried = [(row, before) for row in rows[:_TRIED_ROWS] if (before := _apply(template, row))]
    fields: dict[str, tuple[str, ...]] = {name: () for _, before in tried for name in before}
    fields[_ROW] = ()
    ignored = []
    for column in list_columns(rows) if tried else ():
        values = [row.get(column) for row in rows]
        other = next((value for value in values if value != values[0]), None)
        found = _find_dependents(template, tried, column, (values[0], other))
        found = found or _find_dependents(template, tried, column, (None, None))
        for name in found:
            fields[name] += (column,)
        if not found:
            ignored.append(column)
    return {name: columns for name, columns in fields.items() if columns}, tuple(ignored)


def _apply(template: Template, row: Row) -> Row | None:
    """Return what a template makes of a row; None for a row that is bad."""
    try:
        return template(dict(row))
    except Exception:  # of a template of the user
        return None


def _find_dependents(
    template: Template,
    tried: Iterable[tuple[Row, Row]],
    column: str,
    exchange: tuple[Any, Any],
) -> list[str]:
    """Return the fields that change if one value of a column is exchanged for the other."""
    found: dict[str, None] = {}
    dropped = False
    for row, before in tried:
        value = exchange[0] if row.get(column) != exchange[0] else exchange[1]
        after = _apply(template, row | {column: value})
        if after is None:
            dropped = True
        else:  # in tuples, NaN equals itself
            found |= {name: None for name in before if (before[name],) != (after.get(name),)}
    return list(found) or [_ROW] * dropped
