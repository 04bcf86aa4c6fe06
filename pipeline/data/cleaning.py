"""Found rows -> clean rows in an Arrow file, whatever their number. Bad rows are counted."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from pipeline.common.console import Progress
from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import DataError, PipelineError
from pipeline.tasks import labels
from pipeline.tasks.schema import Form, Row, Rows, Template, in_a_line

_UNKNOWN = "a value that the task does not know"


class Dropped:
    """Counts the bad rows of a task: how many of which split and why, and the first of each."""

    def __init__(self, most: float) -> None:
        """`most` is the share of a split's rows that may be bad."""
        self.most = most
        self.counts: dict[str, DroppedRows] = {}
        self._numbers: dict[str, array[int]] = {}
        self._rows: dict[str, int] = {}

    def add(self, split: str, reason: str, number: int, *, place: str | None = None) -> None:
        """Count row `number` (from 1) of a split, which may have a name."""
        key = f"{split}: {reason}"
        bad = self.counts.get(key, DroppedRows(rows=0, first=number, name=place))
        self.counts[key] = bad.model_copy(update={"rows": bad.rows + 1})
        self._numbers.setdefault(split, array("q")).append(number)

    def number(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers (from 1) that clean rows (from 0) had among all rows of a split."""
        bad = np.array(self._numbers.get(split, ()), np.int64)
        good_before = bad - 1 - np.arange(len(bad))
        return rows + 1 + np.searchsorted(good_before, rows, side="right")

    def check(self, split: str, rows: int | None = None) -> None:
        """Stop if more of a split's rows are bad than may be; `rows` are to be told once.

        Raises:
            DataError: names the reasons, the counts and the first row of each.
        """
        rows = self._rows[split] if rows is None else rows
        self._rows[split] = rows
        mine = {key: found for key, found in self.counts.items() if key.startswith(f"{split}: ")}
        bad = sum(found.rows for found in mine.values())
        reasons = ", ".join(
            f"{found.rows:,} x {key.removeprefix(f'{split}: ')} (first: {found.describe_first()})"
            for key, found in mine.items()
        )
        if bad == rows:
            raise DataError(f"{split} has no row that can be used: {reasons or 'it is empty'}")
        if bad > self.most * rows:
            raise DataError(
                f"{bad:,} of {rows:,} rows of {split} are bad, more than data.max_bad_rows "
                f"{self.most:g} allows: {reasons}"
            )


def write_clean(
    rows: Rows, path: Path, *, split: str, make: tuple[Form, Template], dropped: Dropped
) -> Dataset:
    """Write the good rows of a split to an Arrow file, and open it without reading it in.

    Raises:
        DataError: too many rows are bad, or none is good; or the template does not work.
    """
    form, _ = make
    schema, progress = form.features.arrow_schema, Progress("prepare", 0)
    total = 0

    def good() -> Iterator[Row]:
        nonlocal total
        for total, row in enumerate(rows(), start=1):
            try:
                clean, reason, place = _cleaned(row, make)
            except PipelineError:
                raise
            except Exception as error:
                raise DataError(
                    f"the task's template does not work for row {total:,} of {split}: "
                    f"{in_a_line(error)}"
                ) from error
            if clean is None:
                dropped.add(split, reason, total, place=place)
            else:
                yield clean

    kept = good()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        while chunk := list(islice(kept, form.chunk)):
            columns = {name: [row.get(name) for row in chunk] for name in form.features}
            writer.write_table(pa.table(form.features.encode_batch(columns), schema=schema))
            progress.count(total, f"rows of {split} read")
    dropped.check(split, total)
    return Dataset.from_file(str(path))


def _cleaned(row: Row, make: tuple[Form, Template]) -> tuple[Row | None, str, str | None]:
    """The clean row; or None, why it is a bad one, and what it is called beside its number."""
    form, template = make
    try:
        made = template(row)
    except KeyError as error:
        cells = [value for value in row.values() if isinstance(value, str | int)]
        if not {*error.args} & {*row, *cells}:  # a key may also be a value that a dict lacks
            return None, f"no {error}", f"which has {', '.join(row)}"
        return None, _UNKNOWN, in_a_line(error)
    except (IndexError, TypeError, ValueError, AttributeError) as error:
        return None, _UNKNOWN, in_a_line(error)
    if made is None:
        return None, "no label", None
    if not isinstance(made, dict):
        raise TypeError(f"it must return a dict or None, got {made!r}")
    clean = form.complete(made)
    reason = form.wrong(clean) or _garbled(clean)
    return (None, reason, form.place(clean)) if reason else (clean, "", None)


def drop_unknown(
    rows: Dataset, *, split: str, column: str, classes: Sequence[str], dropped: Dropped
) -> Dataset:
    """The rows whose label, or all of whose labels, train has; others are bad rows.

    Raises:
        DataError: too many rows are bad, or none is good.
    """
    cells = rows.data.column(column)
    wrong = labels.unknown(labels.distinct(cells), classes)
    if not wrong:
        return rows
    bad, value = labels.rows_with(cells, wrong)
    whose = "the task" if split == "train" else "train"
    reason = f"label that {whose} does not have" if classes else "label that is no number"
    for number in dropped.number(split, np.flatnonzero(bad)):
        dropped.add(split, reason, int(number), place=repr(value))
    dropped.check(split)
    return rows.select(np.flatnonzero(~bad))


def _garbled(row: Row) -> str | None:
    """Half of a character, as text that was cut by its units holds: no file can take it."""
    for value in row.values():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return "text with half a character"
    return None
