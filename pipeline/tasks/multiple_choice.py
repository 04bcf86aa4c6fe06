"""Multiple choice: the schema of its rows, and encoders with a multiple-choice head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, Features, List, Value
from scipy.special import logsumexp, softmax
from transformers import AutoModelForMultipleChoice, DataCollatorForMultipleChoice, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.base import Batch, Columns, Predictions, Task, Values
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.schema import (
    Row,
    RowSchema,
    Template,
    column_names,
    question_prompt,
    require_column,
)

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
    text = [section.text] if isinstance(section.text, str) else section.text
    text = [require_column(name, first, "data.text") for name in text or [_prompt(first, label)]]
    if len({*text, label, _CHOICES}) < len(text) + 2:
        raise ConfigError(
            f"data.text, data.label and {_CHOICES} must differ, got {text} and {label!r}"
        )

    def clean(row: Row) -> Row:
        parts = ["" if row.get(name) is None else row[name] for name in text]
        bad = [part for part in parts if not (isinstance(part, str) and part.strip())]
        return {
            "prompt": bad[0] if bad else _joined(parts, question=text[-1] == _QUESTION),
            "choices": _listed(row.get(_CHOICES)),
            "label": _number(row.get(label)),
            "group": parts[0] if len(parts) == 2 and not bad else None,
        }

    return clean


def _joined(parts: Sequence[str], *, question: bool) -> str:
    """Return one prompt, with a question on its own line."""
    texts = [part.strip() for part in parts]
    return "\n".join([*texts[:-1], question_prompt(texts[-1])]) if question else " ".join(texts)


def _prompt(first: Sequence[Row], label: str) -> str:
    names = [name for name in column_names(first) if name not in (_CHOICES, label)]
    texts = [name for name in names if labels.is_text([row.get(name) for row in first])]
    found = [name for name in _PROMPTS if name in texts][:1] or texts
    if len(found) != 1:
        raise DataError(
            f"data.text auto needs a column {' or '.join(_PROMPTS)}, or one column of text beside "
            f"{_CHOICES} and {label!r}, found {', '.join(found) or 'none'}; name it in data.text; "
            f"columns: {', '.join(column_names(first))}"
        )
    return found[0]


def _listed(value: Any) -> Any:
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


def _number(value: Any) -> Any:
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
    """Return why a row is bad: a field is missing, empty or of another type, or no choice right."""
    prompt, choices, label = row["prompt"], row["choices"], row["label"]
    if not isinstance(prompt, str):
        return "prompt of another type"
    if choices is not None and not isinstance(choices, list):
        return "choices that are no list"
    found = {
        "empty prompt": not prompt.strip(),
        "no choices": choices is None,
        "fewer than two choices": len(choices or ()) < 2,
        "choice of another type": not all(isinstance(choice, str) for choice in choices or ()),
        "empty choice": not all(str(choice).strip() for choice in choices or ()),
        "no label": label is None,
        "label of another type": type(label) is not int,
        "label out of range": type(label) is int and not 0 <= label < len(choices or ()),
    }
    return next((reason for reason, so in found.items() if so), None)


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
    build_template=build_template,
    find_error=find_error,
    matches_columns=lambda names: _CHOICES in names,
    identity_columns=("prompt", "choices", "answers"),
    group_columns=("prompt",),
    model_requirement=(
        "an encoder with a multiple-choice head in transformers, such as bert, or a decoder, "
        "such as llama"
    ),
)


class ChoiceTask(Task):
    """A task that predicts the index of the best choice, and a probability of each."""

    schema = SCHEMA

    metrics = ("accuracy",)

    def to_predictions(self, rows: Dataset, values: Values, loss: float) -> Predictions:
        """Return the predictions for scores of the choices.

        Where rows have `answers`, labels are these and predictions are texts of choices.

        Args:
            rows: the prepared rows.
            values: score of each choice, shape (rows, most choices), -inf where a row has fewer.
            loss: mean over the rows.
        """
        exists = np.arange(values.shape[1]) < choice_counts(rows)[:, None]
        check_finite(np.where(exists, values, 0.0))
        best, right = values.argmax(axis=1), np.asarray(rows["label"])
        shares = np.where(exists, softmax(values, axis=1), np.nan)
        if "answers" in rows.column_names:
            right = np.fromiter(rows["answers"], object, len(rows))
            picked = zip(rows["choices"], best, strict=True)
            best = np.asarray([choices[number] for choices, number in picked], object)
        return Predictions(labels=right, predictions=best, loss=loss, scores=shares)

    def table(self, found: Predictions) -> pd.DataFrame:
        """Return label, prediction and each choice's probability, blank where a row has fewer."""
        table = super().table(found)
        if found.scores is not None:
            for number, shares in enumerate(found.scores.T):
                table[f"score {number}"] = shares
        return table


def choice_counts(rows: Dataset) -> Values:
    """Return the number of choices of each row."""
    return np.fromiter(map(len, rows["choices"]), np.int64, len(rows))


class MultipleChoice(ChoiceTask):
    """Score pairs of the prompt and each choice with a head on the pooled token.

    In a pair that is too long, the prompt loses its start, since a question follows its passage. A
    choice loses its end only where it takes more than half of the room for both.

    All rows of a batch have the same number of choices: missing ones are a single padding token.
    In training they count as wrong choices, which are easy to recognize; in evaluation they are
    ignored. Where rows have several right choices (`answers`), those that are not the label are
    not `trainable`: training would count them as wrong.
    """

    name = "multiple-choice"
    model_class = AutoModelForMultipleChoice
    task_type = None  # peft has none; load_model names the head
    inputs = ("input_ids", "attention_mask", "token_type_ids", "trainable", "label")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return config.model_type in MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Tokenize the pairs of each row; `length` and `num_truncated` are of the longest."""
        if not processor.is_fast:
            raise ConfigError(
                f"{type(processor).__name__} can't tell which text a token is from, so a long "
                f"prompt can't be cut; take a model with a fast tokenizer"
            )
        counts = [len(choices) for choices in rows["choices"]]
        prompts = [p for p, n in zip(rows["prompt"], counts, strict=True) for _ in range(n)]
        choices = [choice for choices in rows["choices"] for choice in choices]
        whole = processor(prompts, choices, verbose=False)
        kept = [
            kept_tokens(whole.sequence_ids(number), self.card.max_length)
            for number in range(len(choices))
        ]
        made = {}
        for name in self.inputs:
            if name in whole:
                pairs = zip(whole[name], kept, strict=True)
                made[name] = _by_row([[pair[n] for n in mine] for pair, mine in pairs], counts)
        longest = [max(map(len, pairs)) for pairs in made["input_ids"]]
        before = [max(map(len, pairs)) for pairs in _by_row(whole["input_ids"], counts)]
        answers = rows.get("answers") or [None] * len(counts)
        return made | {
            "label": rows["label"],
            "trainable": [*map(_trainable_choices, rows["choices"], rows["label"], answers)],
            "length": longest,
            "num_truncated": [full - kept for full, kept in zip(before, longest, strict=True)],
        }

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        """Return a function that pads pairs to one length, and rows to one number of choices."""
        pad = DataCollatorForMultipleChoice(processor)
        blank = {"input_ids": [processor.pad_token_id], "attention_mask": [1]}
        blank |= {"token_type_ids": [0], "label": []}

        def collate(rows: list[Row]) -> Batch:
            rows = [_drop_untrained(row) for row in rows]
            most = max(len(row["input_ids"]) for row in rows)
            lacking = [most - len(row["input_ids"]) for row in rows]
            padded = [_pad_choices(row, blank, n) for row, n in zip(rows, lacking, strict=True)]
            batch: Batch = pad(padded)
            return batch

        return collate

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Predictions:
        """Predict the best choice; the loss is the cross-entropy over the choices of each row."""
        counts = choice_counts(rows)
        logits = np.full((len(rows), counts.max()), -np.inf)
        every = rows.remove_columns("trainable")
        for numbers, _, output in run_model(self, model, every, processor, batch_size=batch_size):
            values = output.logits.float().cpu().numpy()
            logits[numbers, : values.shape[1]] = values
        logits[np.arange(logits.shape[1]) >= counts[:, None]] = -np.inf
        right = logits[np.arange(len(rows)), np.asarray(rows["label"])]
        return self.to_predictions(rows, logits, float((logsumexp(logits, axis=1) - right).mean()))


def kept_tokens(parts: Sequence[int | None], most: int) -> list[int]:
    """Return the indices of the tokens that are kept, at most `most`.

    The prompt loses its start, but keeps half of the room that special tokens leave; then the
    choice loses its end.

    Args:
        parts: what each token is of: 0 the prompt, 1 the choice, None neither.
        most: tokens that a pair may have.
    """
    prompt, choice = ([n for n, part in enumerate(parts) if part == side] for side in (0, 1))
    room = most - (len(parts) - len(prompt) - len(choice))
    left = min(len(prompt), max(room - len(choice), room // 2))
    cut = {*prompt[: len(prompt) - left], *choice[room - left :]}
    return [n for n in range(len(parts)) if n not in cut]


def _by_row(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Return the values of all choices as one list per row."""
    every = iter(values)
    return [[next(every) for _ in range(count)] for count in counts]


def _trainable_choices(choices: list[str], label: int, answers: list[str] | None) -> list[bool]:
    """Return which choices are trained on: all but further correct ones."""
    others = {*(answers or ())} - {choices[label]}
    return [choice not in others for choice in choices]


def _drop_untrained(row: Row) -> Row:
    """Return the row with the choices to train on; all without the column `trainable`."""
    trainable = row.get("trainable", [True] * len(row["input_ids"]))
    kept = [number for number, so in enumerate(trainable) if so]
    return {
        name: kept.index(value) if name == "label" else [value[number] for number in kept]
        for name, value in row.items()
        if name != "trainable"
    }


def _pad_choices(row: Row, blank: dict[str, list[int]], lacking: int) -> Row:
    """The row with blank choices behind its own."""
    return {
        name: value if name == "label" else [*value, *[blank[name]] * lacking]
        for name, value in row.items()
    }
