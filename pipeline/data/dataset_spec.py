"""One named task: where its rows are, what they become, and how a model is measured on them.

A row of a kind has these columns, whichever data set it is from:

| kind | columns |
|---|---|
| classify | text, text_pair (None of single texts), label: a class's name, or a score |
| choice | prompt, choices, label: the right one's index |
| generate | prompt, completion, perhaps cue; or messages: a chat of {role, content} |
| tokens | tokens, tags: one tag a token |
| answer | id, question, context, answers: {text, answer_start}, empty lists for no answer |
| image | image, label: a class's name |

Rows to classify and choices may have a further column `group`, equal in rows of one question or
passage: a measure over questions needs it, and splits that are drawn from train keep such rows
together. A choice of which several are right has a column `answers`, their texts: measures then
compare texts. A `cue` stands behind the prompt of decoders, and encoder-decoders do not read it.

Prompts end without a space, or in a newline, and what follows them begins without one: a decoder
reads both with a space between, or none after a newline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.common.errors import ConfigError
from pipeline.metrics.definitions import find_measure
from pipeline.tasks.schema import Row, Template

_SPLITS = ("train", "validation", "test")
# Most public sets keep the labels of their test rows: the public validation rows are the test.
_PUBLIC = {"train": "train", "test": "validation"}
_CLASSES = ("accuracy", "f1", "f1_macro", "mcc")
_WORDS = ("exact_match", "final_number", "rouge1", "rouge2", "rougeL")
KINDS = {  # what can be measured of each
    "classify": (*_CLASSES, "multirc_f1a", "multirc_em"),
    "choice": (*_CLASSES, "record_em", "record_f1"),
    "generate": (*_WORDS, "perplexity"),
    "tokens": ("entity_f1", "token_accuracy"),
    "answer": ("squad_f1", "squad_em"),
    "image": _CLASSES,
}
SCORES = ("pearson", "spearman")  # what can be measured of classify where labels are scores
_NAMED = ("tokens", "image")  # kinds that always have classes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A task of the hub.

    Attributes:
        kind: how it is modelled, one of `KINDS`.
        home: the data set's hub id; empty: rows come from the files of data.train and so on.
        configuration: of the data set, where it has several.
        revision: a branch of it: `refs/convert/parquet` where the main one holds a script, which
            `datasets` no longer runs.
        template: a row of the data set -> a row of the kind, or None if it has no label.
        classes: in the order of their ids; empty where labels are scores, indices or texts.
        metric: the main one, as on the task's leaderboard.
        metrics: all that are reported; empty: the main one only.
        select: by which validation chooses a checkpoint; empty: perplexity if the model
            generates, otherwise what data.metric asks for, or the main one.
        neutral_prompt: of choices: a prompt that asks nothing, with which decoders compare.
        splits: train, and validation and test where they have labels -> the data set's names.
            What is missing is taken from train.
        together: column of the kind whose equal values keep rows in one split; empty: `group`, or
            where rows have none, their texts (the context of answers).
    """

    kind: str
    home: str = ""
    configuration: str | None = None
    revision: str | None = None
    template: Template
    classes: tuple[str, ...] = ()
    metric: str
    metrics: tuple[str, ...] = ()
    select: str = ""
    neutral_prompt: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: dict(_PUBLIC))
    together: str = ""

    def __post_init__(self) -> None:
        """Fill what is empty, and refuse what makes no task."""
        if self.kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "metrics", self.metrics or (self.metric,))
        self._check_measures()
        if self.metric not in self.metrics:
            raise ConfigError(f"metric {self.metric} is not among metrics {self.metrics}")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must differ, got {self.classes}")
        if self.kind in _NAMED and not self.classes:
            raise ConfigError(f"kind {self.kind} needs classes")
        if "train" not in self.splits or not set(self.splits) <= set(_SPLITS):
            raise ConfigError(
                f"splits must be train and perhaps validation and test, got {list(self.splits)}"
            )

    def _check_measures(self) -> None:
        """Refuse measures of other labels and predictions than the kind's."""
        scores = self.kind == "classify" and self.metric in SCORES
        if scores and self.classes:
            raise ConfigError(f"metric {self.metric} is of scores, so classes must be empty")
        known = SCORES if scores else KINDS[self.kind]
        for name in (self.metric, *([self.select] if self.select else []), *self.metrics):
            if find_measure(name).name not in known:
                raise ConfigError(
                    f"metric, metrics and select of {'scores' if scores else f'kind {self.kind}'} "
                    f"must be of {', '.join(known)}; got {name}"
                )


def text_of(row: Row, column: str, *, blank: bool = False) -> str:
    """A column's text, as it stands, for templates that make one text of several columns.

    Formatted, a missing text would be the word None, and a blank one could hide among the others.

    Raises:
        ValueError: there is no text, or a blank one where it must not be; the row is a bad one.
    """
    text = row[column]
    if not isinstance(text, str) or not (blank or text.strip()):
        raise ValueError(f"{column} must be text, got {text!r}")
    return text


def cell(row: Row, *columns: str) -> Any:
    """The value of the first of these columns that the row has: readers of files have other names.

    Raises:
        KeyError: it has none; names the first.
    """
    return row[next((name for name in columns if name in row), columns[0])]


def whole(value: Any) -> int | None:
    """A whole number; None where the hub's mark of no label stands: -1, None or no text.

    Files may hold it as text, or as False or True.

    Raises:
        ValueError: it is something else; the row is a bad one.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        value = int({"": "-1", "false": "0", "true": "1"}.get(text, text))
    if value is not None and value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    return None if value is None or value < 0 else int(value)


def class_name(value: Any, classes: tuple[str, ...]) -> str | None:
    """The name of a class by its number; files may hold the name. None where there is no label."""
    if isinstance(value, str) and value.strip() in classes:
        return value.strip()
    number = whole(value)
    return None if number is None else classes[number]


def labelled(row: Row, label: Any) -> Row | None:
    """The row with its label, or None if there is none."""
    return None if label is None else row | {"label": label}
