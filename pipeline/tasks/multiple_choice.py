"""Multiple choice by encoders with a multiple-choice head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from peft import PeftModel
from scipy.special import logsumexp, softmax
from transformers import AutoModelForMultipleChoice, DataCollatorForMultipleChoice, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

from pipeline.tasks.base import (
    Batch,
    Columns,
    Predictions,
    Processor,
    Task,
    Values,
    make_object_array,
    round_number,
)
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.multiple_choice_schema import SCHEMA
from pipeline.tasks.schema import Row
from pipeline.tasks.tokenization import require_fast_tokenizer


class ChoiceTask(Task):
    """A task that predicts the index of the best choice, and a probability of each."""

    schema = SCHEMA

    metrics = ("accuracy",)

    def to_predictions(self, rows: Dataset, scores: Values, loss: float) -> Predictions:
        """Return the choice with the highest score of each row, and each choice's probability.

        Where rows have `answers`, labels are these (of a row without, the right choice) and
        predictions are texts of choices.

        Args:
            rows: the prepared rows.
            scores: one for each choice, shape (rows, most choices), -inf where a row has fewer.
            loss: mean over the rows.
        """
        exists = np.arange(scores.shape[1]) < count_choices(rows)[:, None]
        check_finite(np.where(exists, scores, 0.0))
        labels, best = np.asarray(rows["label"]), scores.argmax(axis=1)
        probabilities = np.where(exists, softmax(scores, axis=1), np.nan)
        if "answers" in rows.column_names:
            columns = zip(rows["answers"], rows["choices"], labels, best, strict=True)
            texts = [(right or [c[label]], c[number]) for right, c, label, number in columns]
            labels, best = (make_object_array(column) for column in zip(*texts, strict=True))
        return Predictions(labels=labels, predictions=best, loss=loss, scores=probabilities)

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the right choice, with its index."""
        return f"choice {row['label']}: {row['choices'][row['label']]}"

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        """Return label, prediction and each choice's probability, blank where a row has fewer."""
        table = super().make_table(predictions)
        if predictions.scores is not None:
            for number, probabilities in enumerate(predictions.scores.T):
                table[f"score {number}"] = probabilities
        return table

    def make_outputs(self, predictions: Predictions, rows: Dataset) -> list[Row]:
        """Return index and text of the best choice, and the probability of each choice."""
        assert predictions.predictions is not None
        assert predictions.scores is not None
        columns = zip(rows["choices"], predictions.predictions, predictions.scores, strict=True)
        return [
            {
                "prediction": int(best),
                "choice": choices[best],
                "scores": [*map(round_number, scores[: len(choices)])],
            }
            for choices, best, scores in columns
        ]


def count_choices(rows: Dataset) -> Values:
    """Return the number of choices of each row."""
    return np.fromiter(map(len, rows["choices"]), np.int64, len(rows))


class MultipleChoice(ChoiceTask):
    """Score pairs of the prompt and each choice with a head on the pooled token.

    In a pair that is too long, the prompt loses its start, because a question follows its passage.
    A choice loses its end only where it is longer than half of the tokens for both.

    Rows of a batch are padded to the same number of choices, with choices of one padding token. In
    training these count as wrong choices, which are easy to recognize; in evaluation they are
    ignored. Where rows have several right choices (`answers`), those that are not the label are
    not `trainable`, because training would count them as wrong.
    """

    name = "multiple-choice"
    variant = "by encoders"
    model_class = AutoModelForMultipleChoice
    task_type = None  # peft has none; load_model names the head
    inputs = ("input_ids", "attention_mask", "token_type_ids", "trainable", "label")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return config.model_type in MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize the pairs of each row; `length` and `num_truncated` are of the longest."""
        require_fast_tokenizer(processor, SCHEMA.kind, purpose="truncate the prompt only")
        counts = [len(choices) for choices in rows["choices"]]
        prompts = np.repeat(np.array(rows["prompt"], object), counts).tolist()
        encoded = processor(prompts, list(chain(*rows["choices"])), verbose=False)
        kept = [
            select_kept_tokens(encoded.sequence_ids(number), self.card.max_length)
            for number in range(len(prompts))
        ]
        columns = {}
        for name in self.inputs:
            if name in encoded:
                pairs = zip(encoded[name], kept, strict=True)
                truncated = [[values[token] for token in tokens] for values, tokens in pairs]
                columns[name] = _group_by_row(truncated, counts)
        full_lengths, lengths = (
            [max(map(len, pairs)) for pairs in _group_by_row(values, counts)]
            for values in (encoded["input_ids"], kept)
        )
        answers = rows.get("answers") or [None] * len(counts)
        return columns | {
            "label": rows["label"],
            "trainable": [*map(_mark_trainable, rows["choices"], rows["label"], answers)],
            "length": lengths,
            "num_truncated": [n - kept for n, kept in zip(full_lengths, lengths, strict=True)],
        }

    def list_shown_tokens(self, row: Row) -> list[int]:
        """Return the tokens of the pair of the prompt and the right choice."""
        ids: list[int] = row["input_ids"][row["label"]]
        return ids

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        """Return a function that pads pairs to one length, and rows to one number of choices."""
        pad = DataCollatorForMultipleChoice(processor)
        blank = {
            "input_ids": [processor.pad_token_id],
            "attention_mask": [1],
            "token_type_ids": [0],
        }

        def collate(rows: list[Row]) -> Batch:
            rows = [_drop_untrained(row) for row in rows]
            most = max(len(row["input_ids"]) for row in rows)
            batch: Batch = pad([_pad_choices(row, blank, most) for row in rows])
            return batch

        return collate

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        """Predict the best choice; the loss is the cross-entropy over the choices of each row."""
        counts = count_choices(rows)
        logits = np.full((len(rows), counts.max()), -np.inf)
        with_all = rows.remove_columns("trainable")
        for numbers, _, output in run_model(
            self, model, with_all, processor, batch_size=batch_size
        ):
            batch_logits = output.logits.float().cpu().numpy()
            logits[numbers, : batch_logits.shape[1]] = batch_logits
        logits[np.arange(logits.shape[1]) >= counts[:, None]] = -np.inf
        right = logits[np.arange(len(rows)), np.asarray(rows["label"])]
        return self.to_predictions(rows, logits, float((logsumexp(logits, axis=1) - right).mean()))


def select_kept_tokens(parts: Sequence[int | None], length: int) -> list[int]:
    """Return the indices of the at most `length` tokens of a pair that truncation keeps.

    The prompt loses its start, but keeps half of the tokens that are not special; then the choice
    loses its end.

    Args:
        parts: the text that each token is of: 0 the prompt, 1 the choice, None neither.
        length: tokens that a pair may have.
    """
    prompt, choice = ([n for n, part in enumerate(parts) if part == side] for side in (0, 1))
    room = length - (len(parts) - len(prompt) - len(choice))
    prompt_length = min(len(prompt), max(room - len(choice), room // 2))
    dropped = {*prompt[: len(prompt) - prompt_length], *choice[room - prompt_length :]}
    return [n for n in range(len(parts)) if n not in dropped]


def _group_by_row(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Return the values of all choices as one list for each row."""
    iterator = iter(values)
    return [list(islice(iterator, count)) for count in counts]


def _mark_trainable(choices: list[str], label: int, answers: list[str] | None) -> list[bool]:
    """Return for each choice whether to train on it: on all but further correct ones."""
    others = {*(answers or ())} - {choices[label]}
    return [choice not in others for choice in choices]


def _drop_untrained(row: Row) -> Row:
    """Return the row with the choices to train on; all without the column `trainable`."""
    trainable = row.get("trainable", [True] * len(row["input_ids"]))
    kept = np.flatnonzero(trainable).tolist()
    return {
        name: kept.index(value) if name == "label" else [value[number] for number in kept]
        for name, value in row.items()
        if name != "trainable"
    }


def _pad_choices(row: Row, blank: dict[str, list[int]], count: int) -> Row:
    """Return the row with blank choices after its own, `count` in all."""
    missing = count - len(row["input_ids"])
    return {
        name: value if name == "label" else [*value, *[blank[name]] * missing]
        for name, value in row.items()
    }
