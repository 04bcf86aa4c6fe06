"""The first rows of train, read and cleaned without reading the others or writing anything."""

from __future__ import annotations

from datasets import Dataset

from pipeline.common.errors import DataError
from pipeline.common.params import DataSection
from pipeline.data.cleaning import BadRow
from pipeline.data.columns import find_columns
from pipeline.data.loading import LoadedDataset, OpenedSource, find_classes, open_source
from pipeline.tasks import labels
from pipeline.tasks.schema import Row

CleanedRow = tuple[Row, Row | str]  # as it was read; and clean, or why it is bad


def read_first_rows(
    section: DataSection, count: int, *, seed: int
) -> tuple[LoadedDataset, list[CleanedRow]]:
    """Return a data set without rows, with the classes of train's first rows, and these rows.

    Args:
        section: of params.yaml.
        count: rows to return; as many as there are, if these are fewer.
        seed: of the built-in tasks.

    Raises:
        ConfigError, DataError: as `read_dataset`, as far as the first rows show it.
    """
    opened = open_source(section, seed=seed, for_preview=True)
    schema, rows = opened.schema, opened.first_rows
    if schema.chunk_size < len(rows):  # images, which cleaning decodes
        rows = rows[:count]
    cleaned = [(row, _clean(opened, row, number)) for number, row in enumerate(rows, start=1)]
    columns, ignored_columns = find_columns(opened.cleaner.template, opened.first_rows)
    good = [row for _, row in cleaned if not isinstance(row, str)]
    dataset = LoadedDataset(
        schema=schema,
        classes=_find_classes(section, opened, good),
        source=opened.source,
        columns=columns,
        ignored_columns=ignored_columns,
    )
    return dataset, cleaned[:count]


def _clean(opened: OpenedSource, row: Row, number: int) -> Row | str:
    """Return the row with all columns of its schema, or why it is bad."""
    try:
        clean_row = opened.cleaner.clean(row, f"row {number:,} of train")
    except BadRow as bad:
        return f"{bad.reason} ({bad.name})" if bad.name else bad.reason
    return {name: clean_row.get(name) for name in opened.schema.features}


def _find_classes(section: DataSection, opened: OpenedSource, rows: list[Row]) -> list[str]:
    """Return the classes of the first rows, which may be too few to find more than one."""
    schema, column = opened.schema, opened.schema.label_column
    if not rows:
        return []
    columns = {name: [row[name] for row in rows] for name in schema.features}
    train = Dataset.from_dict(columns, features=schema.features)
    try:
        return find_classes(section, schema, opened.source, {"train": train})
    except DataError:
        return labels.sort_names(labels.find_distinct(train.data.column(column))) if column else []
