"""Raw rows -> clean rows in an Arrow file, whatever their number. Bad rows are counted."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from pipeline.common.console import Progress
from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import DataError, PipelineError
from pipeline.common.text import find_nearest, inflect, quantify, suggest_name
from pipeline.data.dataset_spec import RowError
from pipeline.tasks import labels
from pipeline.tasks.schema import Row, RowSchema, Template, describe_exception

_UNFIT_VALUE = "a value that does not fit"


class BadRowCounter:
    """Counts the bad rows of a data set by split and reason, with the first of each.

    Attributes:
        counts: "split: reason" -> how many rows, and the first of them.
        columns: split -> the names of its first row's columns, and of those of bad rows.
    """

    def __init__(self, max_fraction: float) -> None:
        """Allow at most this fraction of a split's rows to be bad."""
        self.max_fraction = max_fraction
        self.counts: dict[str, DroppedRows] = {}
        self.columns: dict[str, dict[str, None]] = {}
        self._bad_numbers: dict[str, array[int]] = {}
        self._num_rows: dict[str, int] = {}

    def add(self, split: str, reason: str, number: int, *, name: str | None = None) -> None:
        """Count row `number` (from 1) of a split; a name tells it from other rows."""
        key = f"{split}: {reason}"
        count = self.counts.get(key, DroppedRows(rows=0, first=number, name=name))
        self.counts[key] = count.model_copy(update={"rows": count.rows + 1})
        self._bad_numbers.setdefault(split, array("q")).append(number)

    def find_raw_numbers(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers (from 1) that clean rows (from 0) have among all rows of a split."""
        bad = np.array(self._bad_numbers.get(split, ()), np.int64)
        good_before = bad - 1 - np.arange(len(bad))
        return rows + 1 + np.searchsorted(good_before, rows, side="right")

    def check(self, split: str, num_rows: int | None = None) -> None:
        """Refuse a split with too many bad rows; the first call for a split gives its row count.

        Raises:
            DataError: names the reasons, the counts and the first row of each.
        """
        num_rows = self._num_rows[split] if num_rows is None else num_rows
        self._num_rows[split] = num_rows
        prefix = f"{split}: "
        counts = {key: count for key, count in self.counts.items() if key.startswith(prefix)}
        bad = sum(count.rows for count in counts.values())
        reasons = ", ".join(
            f"{count.rows:,} x {key.removeprefix(prefix)} (first: {count.describe_first()})"
            for key, count in counts.items()
        )
        if bad == num_rows:
            columns = self.columns.get(split, {})
            absent = [name for name in self.columns.get("train", {}) if name not in columns]
            noun, verb = inflect(len(absent), "column"), inflect(len(absent), "is", "are")
            hint = f"; train's {noun} {', '.join(absent)} {verb} not among {', '.join(columns)}"
            reasons = reasons + hint * bool(absent) if reasons else "it is empty"
            raise DataError(f"{split} has no usable row: {reasons}")
        if bad > self.max_fraction * num_rows:
            raise DataError(
                f"{bad:,} of {quantify(num_rows, 'row')} of {split} {inflect(bad, 'is', 'are')} "
                f"bad, more than data.max_bad_rows {self.max_fraction:g} allows: {reasons}"
            )


class BadRow(Exception):
    """Why a row is bad, and what tells it from other rows."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.name = reason, name


@dataclass(frozen=True, kw_only=True)
class RowCleaner:
    """Turns raw rows into clean rows of a schema.

    Attributes:
        task: data.task, for messages.
        schema: of the clean rows.
        template: maps a raw row to a row of the schema, or to None if it has no label.
    """

    task: str
    schema: RowSchema
    template: Template

    def write(
        self, rows: Iterable[Row], path: Path, *, split: str, bad_rows: BadRowCounter
    ) -> Dataset:
        """Write the good rows of a split to an Arrow file and open it memory-mapped.

        Raises:
            DataError: too many rows are bad, none is good, or the template fails.
        """
        features, progress = self.schema.features, Progress("prepare", 0)
        schema = features.arrow_schema
        total = 0

        def read_good_rows() -> Iterator[Row]:
            nonlocal total
            for total, row in enumerate(rows, start=1):
                if total == 1:
                    bad_rows.columns[split] = dict.fromkeys(row)
                try:
                    clean_row = self.clean(row, f"row {total:,} of {split}")
                except BadRow as bad:
                    bad_rows.columns[split] |= dict.fromkeys(row)
                    bad_rows.add(split, bad.reason, total, name=bad.name)
                else:
                    yield clean_row

        remaining = read_good_rows()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while chunk := list(islice(remaining, self.schema.chunk_size)):
                columns = {name: [row.get(name) for row in chunk] for name in features}
                writer.write_table(pa.table(features.encode_batch(columns), schema=schema))
                progress.count(total, f"rows of {split} read")
        bad_rows.check(split, total)
        return Dataset.from_file(str(path))

    def clean(self, row: Row, where: str) -> Row:
        """Return the clean row.

        Args:
            row: as it was read.
            where: its number and split, for messages.

        Raises:
            BadRow: the row is bad.
            DataError: the template is: an exception that no value of a row should raise.
        """
        try:
            return self._apply_template(row)
        except (PipelineError, BadRow):
            raise
        except Exception as error:
            name = getattr(self.template, "__qualname__", repr(self.template))
            raise DataError(
                f"data.task {self.task}: template {name} fails on {where}: "
                f"{describe_exception(error)}"
            ) from error

    def _apply_template(self, row: Row) -> Row:
        try:
            template_row = self.template(row)
        except KeyError as error:
            values = [value for value in row.values() if isinstance(value, str | int)]
            if not {*error.args} & {*row, *values}:  # else a dictionary lacks a value of the row
                nearest = find_nearest(str(error.args[0]), row)
                hint = f"; did you mean {nearest!r}?" if nearest else ""
                raise BadRow(f"no {error}", f"which has {', '.join(row)}{hint}") from error
            raise BadRow(_UNFIT_VALUE, describe_exception(error)) from error
        except ValueError as error:
            name = str(error) if isinstance(error, RowError) else describe_exception(error)
            raise BadRow(_UNFIT_VALUE, name) from error
        if template_row is None:
            raise BadRow("no label")
        if not isinstance(template_row, dict):
            raise TypeError(f"it must return a dict or None, got {template_row!r}")
        if unknown := template_row.keys() - self.schema.features.keys() - row.keys():
            name = min(map(str, unknown))
            hint = suggest_name(name, self.schema.features)
            raise TypeError(f"it returns {name!r}, which {self.schema.kind} does not have; {hint}")
        clean_row = self.schema.postprocess(template_row)
        reason = self.schema.find_error(clean_row)
        if reason is None and _has_lone_surrogate(clean_row):
            reason = "text with an unpaired surrogate"
        if reason:
            raise BadRow(reason, self.schema.row_name(clean_row))
        return clean_row


def drop_unknown_labels(
    rows: Dataset, *, split: str, column: str, classes: Sequence[str], bad_rows: BadRowCounter
) -> Dataset:
    """Return the rows whose labels are all among the classes, or numbers where there are none.

    Raises:
        DataError: too many rows are bad, or none is good.
    """
    cells = rows.data.column(column)
    unknown = labels.find_unknown(labels.find_distinct(cells), classes)
    if not unknown:
        return rows
    bad, first_value = labels.find_rows(cells, unknown)
    owner = "the task" if split == "train" else "train"
    reason = f"label that {owner} does not have" if classes else "label that is no number"
    for number in bad_rows.find_raw_numbers(split, np.flatnonzero(bad)):
        bad_rows.add(split, reason, int(number), name=repr(first_value))
    bad_rows.check(split)
    return rows.select(np.flatnonzero(~bad))


def _has_lone_surrogate(row: Row) -> bool:
    """Return whether a text has half of a UTF-16 surrogate pair, which no file can store."""
    try:
        "".join(value for value in row.values() if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return True
    return False
