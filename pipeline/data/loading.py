"""Section `data` of params.yaml -> clean rows in three splits.

One direction: resolve the source, infer the schema from its first rows, clean, split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from datasets import Dataset, Value

from pipeline.common.console import note
from pipeline.common.data_card import DroppedRows, Origins
from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.data.cleaning import BadRowCounter, RowCleaner, drop_unknown_labels
from pipeline.data.columns import find_columns
from pipeline.data.sources import resolve_source
from pipeline.data.splits import SplitSpec, make_splits
from pipeline.tasks import labels
from pipeline.tasks.registry import SCHEMAS, infer_schema
from pipeline.tasks.schema import RawDataset, Row, RowReader, RowSchema

_INSPECTED_ROWS = 1000  # first rows of train, from which columns are inferred


@dataclass(frozen=True, kw_only=True)
class LoadedDataset:
    """Clean rows of one schema, as Arrow files in the folder that `read_dataset` was given.

    Attributes:
        schema: of the rows.
        classes: class names in the order of their ids; empty for tasks without classes.
        source: the raw data set.
        columns: field of a row -> the columns of the source that it was made from.
        ignored_columns: of the source.
        splits: train, validation and test; none of a preview.
        origins: what the splits were made from.
        dropped: bad rows by split and reason: how many, and the first.
    """

    schema: RowSchema
    classes: list[str]
    source: RawDataset
    columns: dict[str, tuple[str, ...]]
    ignored_columns: tuple[str, ...]
    splits: dict[str, Dataset] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    dropped: dict[str, DroppedRows] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OpenedSource:
    """A data set of which only the first rows have been read.

    Attributes:
        source: the raw data set.
        schema: of the clean rows.
        cleaner: turns raw rows into clean ones.
        first_rows: of train.
        raw_splits: all rows of each split.
    """

    source: RawDataset
    schema: RowSchema
    cleaner: RowCleaner
    first_rows: list[Row]
    raw_splits: dict[str, Iterator[Row]]


def read_dataset(section: DataSection, folder: Path, *, seed: int) -> LoadedDataset:
    """Read the data set of section `data` of params.yaml.

    Args:
        section: of params.yaml.
        folder: for the Arrow files of the splits.
        seed: of the sampling of missing splits, and of the built-in tasks.

    Raises:
        ConfigError: the data set does not exist, or settings do not fit it.
        DataError: the rows can't be read, or can't be used.
    """
    opened = open_source(section, seed=seed)
    source, schema = opened.source, opened.schema
    bad_rows = BadRowCounter(section.max_bad_rows)
    tables = {
        split: opened.cleaner.write(rows, folder / f"{split}.arrow", split=split, bad_rows=bad_rows)
        for split, rows in opened.raw_splits.items()
    }
    classes = find_classes(section, schema, source, tables)
    if schema.label_column:
        for split, rows in tables.items():
            tables[split] = drop_unknown_labels(
                rows, split=split, column=schema.label_column, classes=classes, bad_rows=bad_rows
            )

    is_single = isinstance(schema.features.get("label"), Value)
    spec = SplitSpec(
        group_by=_find_group_columns(schema, source, tables["train"]),
        stratify_by="label" if classes and is_single else None,
        max_rows=source.max_drawn,
        seed=seed,
    )
    splits, origins = make_splits(tables, source.origins, spec)
    columns, ignored_columns = find_columns(opened.cleaner.template, opened.first_rows)
    return LoadedDataset(
        schema=schema,
        splits=splits,
        classes=classes,
        source=source,
        origins=origins,
        columns=columns,
        ignored_columns=ignored_columns,
        dropped=bad_rows.counts,
    )


def open_source(section: DataSection, *, seed: int, for_preview: bool = False) -> OpenedSource:
    """Resolve the source and infer the schema from its first rows, without reading the others.

    Raises:
        ConfigError, DataError: as `read_dataset`.
    """
    source = resolve_source(section, seed=seed, for_preview=for_preview)
    first_rows, raw_splits = _open_splits(source.rows)
    if not first_rows:
        raise DataError(f"data.task {section.task} has no rows to train on")
    kind = section.kind or source.kind
    schema = SCHEMAS[kind] if kind else infer_schema(section, first_rows)
    if section.template is not None and not schema.supports_text_template:
        kinds = [name for name, known in SCHEMAS.items() if known.supports_text_template]
        raise ConfigError(
            f"data.template is for data.kind {', '.join(kinds)}, not {schema.kind}; "
            f"got {section.template!r}"
        )
    template = source.template or schema.build_template(section, first_rows)

    return OpenedSource(
        source=source,
        schema=schema,
        cleaner=RowCleaner(task=section.task, schema=schema, template=template),
        first_rows=first_rows,
        raw_splits=raw_splits,
    )


def _open_splits(rows: dict[str, RowReader]) -> tuple[list[Row], dict[str, Iterator[Row]]]:
    """Start reading each split: return the first rows of train, and all rows of each split.

    The first row of every split is read at once, so a wrong path is reported before a long file
    is read.
    """
    streams = {split: start() for split, start in rows.items()}
    heads = {split: list(islice(stream, 1)) for split, stream in streams.items()}
    heads["train"] += islice(streams["train"], _INSPECTED_ROWS - 1)
    return heads["train"], {split: chain(heads[split], streams[split]) for split in streams}


def find_classes(
    section: DataSection, schema: RowSchema, source: RawDataset, tables: dict[str, Dataset]
) -> list[str]:
    """Return the class names; none where the labels are numbers to predict, or are no classes.

    Raises:
        DataError: the labels are neither classes nor numbers, or do not fit the main metric.
    """
    regression = (source.metric or section.metric) in schema.regression_metrics
    spec_classes = [] if regression and source.classes is None else source.classes
    classes = schema.find_classes(tables, spec_classes)
    if schema.label_column and not classes and section.metric is None and source.metric is None:
        _log_whole_decimals(labels.find_distinct(tables["train"].data.column(schema.label_column)))
    numeric = source.metric is None or source.metric in schema.regression_metrics
    if schema.label_column and not classes and not numeric:
        raise DataError(
            f"data.task {section.task} is measured by {source.metric}, which needs classes, but "
            "labels of train are decimals"
        )
    return classes


def _log_whole_decimals(values: Sequence[str]) -> None:
    """Say that labels such as 0.0 and 1.0 are taken as scores; they may be classes."""
    if labels.are_whole_decimals(values):
        shown = ", ".join(sorted(values)[:3])
        note(f"labels such as {shown}: a regression; data.metric: accuracy for classes")


def _find_group_columns(schema: RowSchema, source: RawDataset, train: Dataset) -> tuple[str, ...]:
    """Return the columns whose equal values keep rows in one split."""
    if source.group_by is not None:
        if source.group_by not in schema.features:
            raise ConfigError(
                f"group_by must be a column of the kind {schema.kind}, one of "
                f"{', '.join(schema.features)}; got {source.group_by!r}"
            )
        return (source.group_by,)
    default = schema.group_columns or schema.identity_columns
    if "group" not in schema.features:
        return default
    without_group = train.data.column("group").null_count
    if without_group == len(train):
        return default
    return ("group", *default) if without_group else ("group",)
