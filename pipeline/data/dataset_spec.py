"""Specification of a named data set: where its rows are, what they become, how it is measured.

Rows of one task kind have the same columns, whichever data set they come from:

| kind | columns |
|---|---|
| text-classification | text, text_pair (None: single text), label: a class name or a number |
| multi-label-classification | text, text_pair, label: a list of class names |
| multiple-choice | prompt, choices, label: the index of the right choice |
| text-generation | prompt, completion, optionally cue; or messages: a chat, optionally tools |
| token-classification | tokens, tags: one tag per token |
| question-answering | question, context, answers: {text, answer_start}, lists; no answer: empty |
| image-classification | image, label: a class name |

Rows of text-classification and multiple-choice may have a further column `group`, equal in rows of
one question or passage: metrics over questions need it, and splits drawn from train keep such rows
in one split. A multiple-choice row with several right choices has a column `answers`, their texts:
metrics then compare texts. A number as a label means regression. A `cue` is appended to the prompt
of decoders only, not to that of encoder-decoders.

A prompt ends without a space or in a newline, and its continuation starts without a space: a
decoder reads both joined by a space, or by nothing after a newline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.common.errors import ConfigError
from pipeline.data.splits import SPLITS
from pipeline.tasks.registry import SCHEMAS
from pipeline.tasks.schema import Row, RowSchema, Template

OWN_SPLITS = {split: split for split in SPLITS}
# Most public data sets hide the labels of their test rows: the validation rows serve as test.
_VALIDATION_AS_TEST = {"train": "train", "test": "validation"}


class RowError(ValueError):
    """A value of a row that does not fit its template: the row is dropped and counted as bad."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A named data set.

    Attributes:
        kind: task kind, as in data.kind.
        hub_id: id on the hub; empty: rows come from the files that data.train etc. name.
        configuration: configuration of the data set, where it has several.
        revision: branch to read where data.revision is auto: `refs/convert/parquet` where the main
            branch holds a loading script, which `datasets` no longer runs.
        template: maps a row of the data set to a row of the kind, or to None if it has no label.
        classes: class names in the order of their ids; empty for numbers, indices and texts.
        metric: main metric, as on the leaderboard.
        metrics: all reported metrics; empty: the main metric only.
        selection_metric: metric by which validation selects a checkpoint; empty: perplexity for
            text generation, otherwise data.metric or the main metric.
        neutral_prompt: for choices scored by a decoder: the prompt of the correction for choices
            that are likely after any prompt.
        splits: train, and validation and test where they have labels, mapped to the data set's own
            split names. A missing split is drawn from train.
        group_by: column whose equal values keep rows in one split; empty: `group`, or where rows
            have none, their texts (of question answering: the context).

    Raises:
        ConfigError: the fields contradict each other; one line.
    """

    kind: str
    hub_id: str = ""
    configuration: str | None = None
    revision: str | None = None
    template: Template
    classes: tuple[str, ...] = ()
    metric: str
    metrics: tuple[str, ...] = ()
    selection_metric: str = ""
    neutral_prompt: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_VALIDATION_AS_TEST))
    group_by: str = ""

    def __post_init__(self) -> None:
        """Fill in `metrics` and validate the fields."""
        if self.kind not in SCHEMAS:
            raise ConfigError(f"kind must be one of {', '.join(SCHEMAS)}, got {self.kind!r}")
        schema = SCHEMAS[self.kind]
        object.__setattr__(self, "metrics", self.metrics or (self.metric,))
        self._check_metrics(schema)
        if self.metric not in self.metrics:
            raise ConfigError(f"metric {self.metric} is not among metrics {self.metrics}")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must differ, got {self.classes}")
        if schema.label_column and not schema.regression_metrics and not self.classes:
            raise ConfigError(f"kind {self.kind} needs classes")
        if "train" not in self.splits or not set(self.splits) <= set(SPLITS):
            raise ConfigError(
                "splits must be train, and optionally validation and test, "
                f"got {', '.join(self.splits) or 'none'}"
            )

    def _check_metrics(self, schema: RowSchema) -> None:
        """Refuse metrics that do not fit the kind's labels and predictions."""
        regression = self.metric in schema.regression_metrics
        if regression and self.classes:
            raise ConfigError(f"metric {self.metric} is for regression, so classes must be empty")
        allowed = schema.regression_metrics if regression else schema.metrics
        for name in filter(None, (self.metric, self.selection_metric, *self.metrics)):
            if name not in allowed:
                raise ConfigError(
                    "metric, metrics and selection_metric of "
                    f"{'regression' if regression else f'kind {self.kind}'} "
                    f"must be among {', '.join(allowed)}; got {name}"
                )


def require_text(row: Row, column: str, *, allow_blank: bool = False) -> str:
    """Return a column's text unchanged, for templates that join several columns to one text.

    Formatting would turn a missing text into "None" and would hide a blank one.

    Raises:
        RowError: the value is no text, or a blank one without `allow_blank`.
    """
    text = row[column]
    if not isinstance(text, str) or not (allow_blank or text.strip()):
        raise RowError(f"{column} must be text, got {text!r}")
    return text


def require_list(row: Row, column: str) -> list[Any]:
    """Return a column's list.

    Raises:
        RowError: the value is no list.
    """
    values = row[column]
    if not isinstance(values, list | tuple):
        raise RowError(f"{column} must be a list, got {values!r}")
    return list(values)


def require_texts(row: Row, column: str) -> list[str]:
    """Return a column's list of texts, which may be blank.

    Raises:
        RowError: the value is no list, or holds something else.
    """
    values = require_list(row, column)
    if not all(isinstance(value, str) for value in values):
        raise RowError(f"{column} must hold texts, got {values!r}")
    return values


def require_object(row: Row, column: str) -> Row:
    """Return a column's object (a JSON object, a struct of Parquet).

    Raises:
        RowError: the value is no object.
    """
    value = row[column]
    if not isinstance(value, dict):
        raise RowError(f"{column} must be an object, got {value!r}")
    return value


def read_first_present(row: Row, *columns: str) -> Any:
    """Return the value of the first of these columns that the row has.

    The readers of local files name some columns differently from the hub.

    Raises:
        KeyError: the row has none of them; names the first.
    """
    return row[next((name for name in columns if name in row), columns[0])]


def parse_int(value: Any) -> int | None:
    """Return an integer >= 0, or None for the hub's marks of a missing label: -1, None, "".

    Files may hold the number as text, or as true or false.

    Raises:
        RowError: the value is no integer.
    """
    number = value
    if isinstance(value, str):
        text = value.strip().lower()
        number = {"": "-1", "false": "0", "true": "1"}.get(text, text)
    try:
        parsed = None if number is None else int(number)
        if parsed is not None and not isinstance(number, str) and parsed != number:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise RowError(f"{value!r} is no integer") from None
    return None if parsed is None or parsed < 0 else parsed


def parse_class(value: Any, classes: tuple[str, ...]) -> str | None:
    """Return the name of a class given by its number or its name; None without a label.

    Raises:
        RowError: there is no such class.
    """
    if isinstance(value, str) and value.strip() in classes:
        return value.strip()
    number = parse_int(value)
    if number is not None and number >= len(classes):
        raise RowError(f"class number must be from 0 to {len(classes) - 1}, got {number}")
    return None if number is None else classes[number]


def add_label(row: Row, label: Any) -> Row | None:
    """Return the row with its label added, or None if there is no label."""
    return None if label is None else row | {"label": label}
