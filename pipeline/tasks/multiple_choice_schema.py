"""The schema of multiple choice: a prompt, its choices, and the index of the right one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datasets import Features, List, Value

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.schema import (
    CLASS_METRICS,
    InputColumns,
    Row,
    RowSchema,
    Template,
    list_columns,
    make_question_prompt,
    require_column,
)
from pipeline.tasks.text_columns import find_text_columns

_CHOICES = "choices"
_QUESTION = "question"
_PROMPTS = ("prompt", _QUESTION)


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for a prompt, `choices` (in CSV a JSON list) and the right one's index.

    Two columns of data.text, such as a passage and a question, become one prompt, and a column
    `question` at its end is formatted as in the named tasks. Labels are indices, or letters from A.
    """
    require_column(_CHOICES, first, "data.kind multiple-choice")
    label = require_column(section.label or "label", first, "data.label")
    columns = [section.text] if isinstance(section.text, str) else section.text
    columns = columns or [_find_prompt_column(first, label)]
    columns = [require_column(name, first, "data.text") for name in columns]
    if len({*columns, label, _CHOICES}) < len(columns) + 2:
        raise ConfigError(
            f"data.text, data.label and {_CHOICES} must differ, got {columns} and {label!r}"
        )

    def clean(row: Row) -> Row:
        texts = ["" if row.get(name) is None else row[name] for name in columns]
        bad = [text for text in texts if not (isinstance(text, str) and text.strip())]
        return {
            "prompt": bad[0] if bad else _join_texts(texts, question=columns[-1] == _QUESTION),
            "choices": _parse_choices(row.get(_CHOICES)),
            "label": _parse_label(row.get(label)),
            "group": texts[0] if len(texts) == 2 and not bad else None,
        }

    return clean


def _join_texts(texts: Sequence[str], *, question: bool) -> str:
    """Return one prompt; if the last text is a question, it is formatted and on its own line."""
    texts = [text.strip() for text in texts]
    return (
        "\n".join([*texts[:-1], make_question_prompt(texts[-1])]) if question else " ".join(texts)
    )


def _find_prompt_column(first: Sequence[Row], label: str) -> str:
    text_columns = find_text_columns(first, besides={_CHOICES, label})
    candidates = [name for name in _PROMPTS if name in text_columns][:1] or text_columns
    if len(candidates) != 1:
        raise DataError(
            f"data.text auto needs a column {' or '.join(_PROMPTS)}, or one column of text beside "
            f"{_CHOICES} and {label!r}, found {', '.join(candidates) or 'none'}; "
            f"name it in data.text; columns: {', '.join(list_columns(first))}"
        )
    return candidates[0]


def _parse_choices(value: Any) -> Any:
    """Return choices as texts; a value that is no list is returned as it is, for `find_error`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return value
    if not isinstance(value, list):
        return value
    return [
        str(choice).strip() if isinstance(choice, str | int | float) else choice for choice in value
    ]


def _parse_label(value: Any) -> Any:
    """Return a label as an index; any other value is returned as it is, for `find_error`."""
    if labels.is_missing(value):
        return None
    if isinstance(value, str):
        name = value.strip()
        if name.isdecimal():
            return int(name)
        return ord(name) - ord("A") if len(name) == 1 and "A" <= name <= "Z" else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def find_error(row: Row) -> str | None:
    """Return why a row is bad: a field is missing, empty or of a wrong type, or out of range."""
    prompt, choices, label = row["prompt"], row["choices"], row["label"]
    if not isinstance(prompt, str):
        return "prompt of another type"
    if choices is not None and not isinstance(choices, list):
        return "choices that are no list"
    if not prompt.strip():
        return "empty prompt"
    if choices is None:
        return "no choices"
    checks = {
        "fewer than two choices": len(choices) < 2,
        "choice of another type": not all(isinstance(choice, str) for choice in choices),
        "empty choice": not all(str(choice).strip() for choice in choices),
        "no label": label is None,
        "label of another type": type(label) is not int,
        "label out of range": type(label) is int and not 0 <= label < len(choices),
    }
    return next((reason for reason, is_bad in checks.items() if is_bad), None)


def add_target(row: Row, classes: Sequence[str]) -> Row:
    """Return a row to predict with its first choice as the right one."""
    return row | {"choices": _parse_choices(row["choices"]), "label": 0}


SCHEMA = RowSchema(
    kind="multiple-choice",
    features=Features(
        {
            "prompt": Value("string"),
            "choices": List(Value("string")),
            "label": Value("int64"),
            "answers": List(Value("string")),  # texts, where several choices are right
            "group": Value("string"),  # rows of one passage, or about the same two options
        }
    ),
    metrics=(*CLASS_METRICS, "record_em", "record_f1"),
    build_template=build_template,
    find_error=find_error,
    matches_columns=lambda names: _CHOICES in names,
    inputs=InputColumns(
        required=(("prompt", _CHOICES),),
        add_target=add_target,
        read_texts=lambda texts: {"prompt": texts[0], _CHOICES: [*texts[1:]]},
    ),
    identity_columns=("prompt", "choices", "answers"),
    group_columns=("prompt",),
    model_requirement=(
        "an encoder with a multiple-choice head in transformers, such as bert, or a decoder, "
        "such as llama"
    ),
)
