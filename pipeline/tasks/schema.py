"""What rows of a task look like before any model: named columns, and what makes a row bad."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features

from pipeline.common.data_card import Baseline, HubDataset, Origins
from pipeline.common.errors import DataError
from pipeline.common.params import DataSection
from pipeline.common.text import find_nearest, join_lines, quantify

Row = dict[str, Any]
RowReader = Callable[[], Iterator[Row]]  # starts again at each call
Template = Callable[[Row], Row | None]

CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "mcc")


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A data set as it was read, before its rows are cleaned.

    Attributes:
        rows: readers of train, and of validation and test where these exist.
        origins: what the rows were made from.
        kind: name of the rows' schema; None: inferred from the columns.
        template: maps a raw row to a row of the schema, or to None if it has no label; None: built
            from the columns that params.yaml names.
        classes: class names in the order of their ids.
        metric: the main metric.
        metrics: all reported metrics.
        selection_metric: the metric by which validation selects a checkpoint.
        max_drawn: rows drawn from train at most, for each split that is missing.
        group_by: column of the schema whose equal values keep rows in one split; None: `group`
            where rows have one, otherwise the schema's own.
        hub_dataset: id and commit of a data set of the Hub.
        baseline: what a trivial method reaches.
        neutral_prompt: what decoders compare with when they score choices; None: nothing.
    """

    rows: dict[str, RowReader]
    origins: Origins
    kind: str | None = None
    template: Template | None = None
    classes: list[str] | None = None
    metric: str | None = None
    metrics: tuple[str, ...] = ()
    selection_metric: str | None = None
    max_drawn: int | None = None
    group_by: str | None = None
    hub_dataset: HubDataset | None = None
    baseline: Baseline | None = None
    neutral_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """The columns of a row whose target is to be predicted.

    Attributes:
        required: columns that a row must have; where rows have several forms, those of each.
        optional: columns that it may have.
        add_target: row and class names -> the row with a target, as if it were one to train on.
            No prediction depends on it.
        read_texts: texts of a command line -> the row that they stand for.
    """

    required: tuple[tuple[str, ...], ...]
    optional: tuple[str, ...] = ()
    add_target: Callable[[Row, Sequence[str]], Row]
    read_texts: Callable[[Sequence[str]], Row]

    @property
    def names(self) -> tuple[str, ...]:
        """All columns."""
        return (*(name for form in self.required for name in form), *self.optional)


def name_texts(*names: str) -> Callable[[Sequence[str]], Row]:
    """Return a function that makes texts the columns of these names, in order.

    It raises a DataError for more texts than names.
    """

    def read_texts(texts: Sequence[str]) -> Row:
        if len(texts) > len(names):
            raise DataError(
                f"a row has {quantify(len(names), 'text')}, {' and '.join(names)}; got {len(texts)}"
            )
        return dict(zip(names, texts, strict=False))

    return read_texts


@dataclass(frozen=True, kw_only=True)
class RowSchema:
    """The columns of a clean row of one task kind, the same for every model.

    Attributes:
        kind: the task kind, as in data.kind.
        features: the columns with their types.
        metrics: those that a data set may be measured by, whichever task its rows are modelled as.
        regression_metrics: those of labels that are numbers; empty: labels never are.
        build_template: params.yaml's section and the first rows of train -> a function that maps
            a raw row to a row of this schema.
        supports_text_template: whether `build_template` reads data.template.
        postprocess: completes a row that a template returned.
        find_error: returns why a row is bad, in two or three words; None if it is not.
        find_classes: splits and the classes that the source names -> class names; [] if none.
        label_column: column of a class name or of a list of them; None: rows have no classes.
        matches_columns: whether a file with these column names has rows of this schema.
        inputs: the columns of a row whose target is to be predicted.
        identity_columns: columns that tell rows apart, for counting repeats.
        group_columns: columns whose equal values keep rows in one split; empty: the identity
            columns.
        row_name: what a row is called in messages beside its number; None: nothing.
        chunk_size: rows held in memory at a time.
        model_requirement: which models can do the task, for the error message of one that can't.
    """

    kind: str
    features: Features
    metrics: tuple[str, ...]
    regression_metrics: tuple[str, ...] = ()
    build_template: Callable[[DataSection, Sequence[Row]], Template]
    find_error: Callable[[Row], str | None]
    supports_text_template: bool = False
    postprocess: Callable[[Row], Row] = field(default=lambda row: row)
    find_classes: Callable[[dict[str, Dataset], list[str] | None], list[str]] = field(
        default=lambda splits, known: []
    )
    label_column: str | None = None
    matches_columns: Callable[[Sequence[str]], bool] = field(default=lambda names: False)
    inputs: InputColumns
    identity_columns: tuple[str, ...]
    group_columns: tuple[str, ...] = ()
    row_name: Callable[[Row], str | None] = field(default=lambda row: None)
    chunk_size: int = 10_000
    model_requirement: str = ""


def require_column(name: str, rows: Sequence[Row], key: str, *, hint: str = "") -> str:
    """Return `name` if any of the rows has such a column.

    Args:
        name: of the column.
        rows: first rows of train.
        key: setting that names it, for the message.
        hint: end of the message where no column has a similar name.

    Raises:
        DataError: none has; names the setting and the nearest column.
    """
    names = list_columns(rows)
    if name not in names:
        nearest = find_nearest(name, names)
        hint = f"; did you mean {nearest!r}?" if nearest else hint
        raise DataError(f"{key}: train has no column {name!r} among {', '.join(names)}{hint}")
    return name


def list_columns(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def convert_answers(answers: Any) -> Any:
    """Return answers as {text: [...], answer_start: [...]}.

    They come as such lists, as one text with its start, or as a list of {text, answer_start};
    anything else is returned unchanged.
    """
    names = ("text", "answer_start")
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return {name: [answer.get(name) for answer in answers] for name in names}
    if isinstance(answers, dict):
        values = {name: answers.get(name) for name in names}
        return {k: value if isinstance(value, list) else [value] for k, value in values.items()}
    return answers


def describe_exception(error: BaseException) -> str:
    """Return the type and the message of another library's exception in one line."""
    return f"{type(error).__name__}: {join_lines(error)}".removesuffix(": ")


def make_question_prompt(question: str) -> str:
    """Return a question as a prompt; without "Answer:" a decoder might continue the question."""
    return f"Question: {question.strip()}\nAnswer:"


def hash_texts(texts: tuple[Any, ...]) -> int:
    """Return a 64-bit hash of a row's texts, the same in every process."""
    digest = hashlib.blake2b(repr(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
