"""`data.template` of params.yaml: one text of several columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.common.errors import ConfigError
from pipeline.tasks.labels import is_missing
from pipeline.tasks.schema import Row, require_column

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


def compile_template(
    template: str, first: Sequence[Row], *, label: str | None
) -> Callable[[Row], Any]:
    """Return a function that fills a row's columns into a template: `{title}: {body}`.

    A missing value becomes an empty text. The function returns None for a row that lacks all
    values, and a value that is neither text nor a number in place of the text.

    Args:
        template: `{{` and `}}` are literal braces.
        first: rows that show which columns there are.
        label: column that the template must not show.

    Raises:
        ConfigError: a single brace, no column, or the label's.
        DataError: there is no such column.
    """
    found = [*_BRACES.finditer(template)]
    if any(match[0] in ("{", "}") for match in found):
        raise ConfigError(
            f"data.template: write {{column}}, and {{{{ or }}}} for a brace; got {template!r}"
        )
    columns = [*dict.fromkeys(match[1] for match in found if match[1])]
    if not columns or label in columns:
        needed = f"must not show the label, {label!r}" if columns else "needs a column in braces"
        raise ConfigError(f"data.template {needed}, got {template!r}")
    for name in columns:
        require_column(name, first, "data.template")

    def fill(row: Row) -> Any:
        values = {name: row.get(name) for name in columns if not is_missing(row.get(name))}
        for value in values.values():
            if not isinstance(value, str | int | float):
                return value
        if not values:
            return None
        return _BRACES.sub(
            lambda match: str(values.get(match[1], "")) if match[1] else match[0][0], template
        )

    return fill
