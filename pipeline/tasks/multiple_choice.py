"""Multiple choice by encoders with a multiple-choice head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy.special import logsumexp, softmax
from transformers import AutoModelForMultipleChoice, DataCollatorForMultipleChoice, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Batch, Columns, Predictions, Task, Values
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.multiple_choice_schema import SCHEMA
from pipeline.tasks.schema import Row


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
