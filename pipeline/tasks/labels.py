"""Interpret the values of a label column as classes or as numbers, and recognize text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.common.errors import DataError

_SHOWN = 8
_NEARLY_ALL = 0.95
_INTEGER = re.compile(r"0|-?[1-9]\d{0,299}", re.ASCII)  # a longer one is beyond any float
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DIGITS = re.compile(r"[+-]?\d+", re.ASCII)


def is_missing(value: Any) -> bool:
    """Return whether a value is None, a blank text, or NaN."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def convert_to_text(value: Any) -> str | None:
    """Return a label as text, whatever its type; None if it is missing.

    Raises:
        DataError: it is a list or the like.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str | int | float):
        raise DataError(f"data.label: {value!r} is neither text nor a number")
    return str(value)


def is_text(values: Sequence[Any]) -> bool:
    """Return whether a column holds text: nearly all are strings, and some have letters."""
    present = [value for value in values if not is_missing(value)]
    texts = [value for value in present if isinstance(value, str)]
    return len(texts) >= _NEARLY_ALL * len(present) and any(map(_has_letters, texts))


def _has_letters(text: str) -> bool:
    """Return whether a text has letters, which dates and numbers lack, apart from 1e5."""
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return any(map(str.isalpha, text))


def list_classes(counts: Mapping[str, int], known: Sequence[str] | None) -> list[str]:
    """Return the classes of a train split in the order of their ids; empty if labels are floats.

    Integers are sorted by size, everything else by name. `counts` says how many rows have
    each label, `known` is an order that the source brings.
    """
    if known is not None:
        return list(known)
    values, rows = list(counts), sum(counts.values())
    decimals = any(isinstance(_parse_number(value), float) for value in values)
    if decimals and (odd := [value for value in values if _parse_score(value) is None]):
        if 2 * sum(counts[value] for value in odd) < rows:
            raise DataError(f"data.label: labels of train are decimals, except {odd[0]!r}")
        decimals = False
    if decimals:
        return []
    names = sort_names({_format_name(value) for value in values})
    if len(names) > max(2, rows // 2):
        hint = "; data.metric: pearson takes them as scores" if are_numbers(names) else ""
        raise DataError(
            f"data.label: {len(names)} different labels in {rows} rows of train, "
            f"such as {values[0]!r}; is it the label column?{hint}"
        )
    return names


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names as text, or by size where all are integers."""
    names = list(names)
    return sorted(names, key=int if are_numbers(names) else None)


def are_numbers(names: Iterable[str]) -> bool:
    """Return whether all names are integers."""
    return all(isinstance(_parse_number(name), int) for name in names)


def shorten(names: Sequence[str]) -> str:
    """Return the first names of a list, with dots for the others."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def order_like(classes: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """Return the classes in the order of a checkpoint's names; None where these name others.

    Case does not count. transformers' default names, LABEL_0 and so on, name the classes 0, 1, ...
    """
    if list(names) == [f"LABEL_{index}" for index in range(len(names))]:
        names = [str(index) for index in range(len(names))]
    if sorted(names) == sorted(classes):
        return list(names)
    by_name = {name.casefold(): name for name in classes}
    ordered = [by_name.get(name.strip().casefold(), "") for name in names]
    return ordered if sorted(ordered) == sorted(classes) else None


def encode(values: Sequence[Any], *, classes: Sequence[str], split: str) -> list[int] | list[float]:
    """Return labels as class ids, or as numbers where there are no classes."""
    if classes:
        ids = {name: index for index, name in enumerate(classes)}
        names = [value if value in ids else _format_name(value) for value in values]
        unknown = next((name for name in names if name not in ids), None)
        if unknown is not None:
            shown = shorten(classes)
            raise DataError(f"data.label: {unknown!r} in {split} is not in train: {shown}")
        return [ids[name] for name in names]
    scores = [_parse_score(value) for value in values]
    if None in scores:
        wrong = values[scores.index(None)]
        raise DataError(f"data.label: {wrong!r} in {split} is no number; train holds decimals")
    return [score for score in scores if score is not None]


def find_unknown(values: Sequence[Any], classes: Sequence[str]) -> list[Any]:
    """Return the values that are none of the classes, or no numbers where there are no classes."""
    if not classes:
        return [value for value in values if _parse_score(value) is None]
    known = set(classes)
    return [value for value in values if value not in known and _format_name(value) not in known]


def find_distinct(column: pa.ChunkedArray) -> list[Any]:
    """Return the distinct values of a column, or of the lists in it."""
    return list({v: None for part in column.chunks for v in pc.unique(_flatten(part)).to_pylist()})


def find_rows(column: pa.ChunkedArray, values: Sequence[Any]) -> tuple[NDArray[np.bool_], Any]:
    """Return which rows equal or contain one of the values, and the first such value."""
    masks, first = [], None
    for part in column.chunks:
        flat, has_lists = _flatten(part), pa.types.is_list(part.type)
        is_equal = pc.is_in(flat, pa.array(values, flat.type))
        row_numbers = pc.list_parent_indices(part) if has_lists else np.arange(len(part))
        mask = np.zeros(len(part), bool)
        mask[np.asarray(row_numbers)[np.asarray(is_equal)]] = True
        if first is None and mask.any():
            first = flat[pc.index(is_equal, True).as_py()].as_py()
        masks.append(mask)
    return np.concatenate(masks), first


def _flatten(part: pa.Array) -> pa.Array:
    return pc.list_flatten(part) if pa.types.is_list(part.type) else part


def are_whole_decimals(values: Iterable[Any]) -> bool:
    """Return whether all values are decimals without a fraction, as pandas writes integers."""
    numbers = [_parse_number(value) for value in values]
    return all(isinstance(number, float) and number.is_integer() for number in numbers)


def convert_to_class(value: Any) -> str | None:
    """Return a label that is a class as text: of a whole decimal, the integer."""
    text = convert_to_text(value)
    return str(int(float(text))) if text is not None and are_whole_decimals([text]) else text


def _format_name(value: Any) -> str:
    """Return a class's name: 1, `1` and ` 1` are one class, `01` and `+1` are others."""
    return str(value).strip()


def _parse_number(value: Any) -> int | float | None:
    """Return an integer, a finite decimal, or None for anything else, such as the text `01`."""
    if isinstance(value, str):
        text = value.strip()
        if _DECIMAL.fullmatch(text):
            value = float(text)
        elif _INTEGER.fullmatch(text):
            value = int(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float is no label
        return None


def _parse_score(value: Any) -> float | None:
    """Return a number to predict: any decimal or integer, also `01` and `+1`."""
    number = _parse_number(value)
    if number is None and isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        number = float(value)
    return None if number is None or not math.isfinite(number) else float(number)
