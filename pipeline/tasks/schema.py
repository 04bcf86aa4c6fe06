"""What rows of a task look like before any model: named columns, and what makes a row bad."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features

from pipeline.common.data_card import Baseline, HubDataset
from pipeline.common.errors import DataError
from pipeline.common.params import DataSection

Row = dict[str, Any]
Rows = Callable[[], Iterator[Row]]  # starts anew at each call
Template = Callable[[Row], Row | None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows of a task as they were found, and what is known of them.

    Attributes:
        rows: of train, and of validation and test where there are such.
        origins: for the data card: what the rows were made from.
        form: name of their form; None: by the columns.
        template: a row as found -> a row of the form, None if it has no label; None: by the
            columns that params.yaml names.
        classes: in the order of their ids.
        metric, metrics, select: the main one, all, and the one that validation chooses by.
        most: rows taken from train at most, for a split that is missing.
        together: column of the form whose equal values keep rows in one split; None: `group` where
            rows have one, or the form's own.
        hub_dataset: id and commit of a data set of the hub.
        baseline: what a trivial method reaches.
        neutral_prompt: what decoders compare with when they choose; None: nothing.
    """

    rows: dict[str, Rows]
    origins: dict[str, Any]
    form: str | None = None
    template: Template | None = None
    classes: list[str] | None = None
    metric: str | None = None
    metrics: tuple[str, ...] = ()
    select: str | None = None
    most: int | None = None
    together: str | None = None
    hub_dataset: HubDataset | None = None
    baseline: Baseline | None = None
    neutral_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Form:
    """The columns of a clean row, the same for every model.

    Attributes:
        name: as in data.kind.
        features: the columns, with their types.
        template: params.yaml's section and the first rows of train -> what makes a clean row of a
            found one.
        complete: a row that a template made -> the clean one, where more is to be found out.
        wrong: why a clean row is bad, in two or three words; None if it is not.
        labels: clean splits and the known classes -> the classes; [] where there are none.
        label: column of what is a class, or a list of such; None: there is none.
        fits: names of a file's columns -> whether they are this form's.
        texts: columns that tell rows apart, for counting repeats.
        together: columns whose equal values keep rows in one split; empty: those of `texts`.
        place: what a clean row is called beside its number, where it has a name.
        chunk: rows held in memory at a time.
    """

    name: str
    features: Features
    template: Callable[[DataSection, Sequence[Row]], Template]
    wrong: Callable[[Row], str | None]
    complete: Callable[[Row], Row] = field(default=lambda row: row)
    labels: Callable[[dict[str, Dataset], list[str] | None], list[str]] = field(
        default=lambda splits, known: []
    )
    label: str | None = None
    fits: Callable[[Sequence[str]], bool] = field(default=lambda names: False)
    texts: tuple[str, ...]
    together: tuple[str, ...] = ()
    place: Callable[[Row], str | None] = field(default=lambda row: None)
    chunk: int = 10_000


def column(name: str, rows: Sequence[Row], key: str) -> str:
    """`name`, if any of the rows has such a column.

    Raises:
        DataError: none has; names the setting and the nearest column.
    """
    names = columns(rows)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"{key}: train has no column {name!r} among {', '.join(names)}{hint}")
    return name


def columns(rows: Sequence[Row]) -> list[str]:
    """Names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def as_lists(answers: Any) -> Any:
    """Lists of texts and of their places, from those, from one of each, or a list of pairs."""
    names = ("text", "answer_start")
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return {name: [answer.get(name) for answer in answers] for name in names}
    if isinstance(answers, dict):
        values = {name: answers.get(name) for name in names}
        return {k: value if isinstance(value, list) else [value] for k, value in values.items()}
    return answers


def in_a_line(error: BaseException) -> str:
    """An exception of foreign code: its type and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def ask(question: str) -> str:
    """The prompt of a question: a model that writes would go on asking without the last word."""
    return f"Question: {question.strip()}\nAnswer:"


def text_key(texts: tuple[Any, ...]) -> int:
    """A hash of a row's texts, the same in every process."""
    digest = hashlib.blake2b(repr(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
