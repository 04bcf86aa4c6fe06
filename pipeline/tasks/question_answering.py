"""Extractive question answering, as in SQuAD: the answer is a span of the context."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks.base import Batch, Columns, Predictions, Task, object_array
from pipeline.tasks.context_windows import (
    MIN_WINDOW_TOKENS,
    Window,
    find_best_spans,
    span_loss,
    split_into_windows,
)
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.schema import Row, RowSchema, Template, answers_as_lists, require_column

_LABELS = ["no answer", "answer"]
_CHUNK = 1000  # questions whose windows are in memory at a time


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for question, context and answers, or the columns params.yaml names.

    Raises:
        ConfigError: data.text names one column only.
        DataError: there is no such column.
    """
    text = section.text or ["question", "context"]
    if isinstance(text, str) or len(text) != 2:
        raise ConfigError(f"data.text must be the columns of question and context, got {text}")
    question, context = (require_column(name, first, "data.text") for name in text)
    answers = require_column(section.label or "answers", first, "data.label")

    def clean(row: Row) -> Row:
        texts = {"question": row.get(question), "context": row.get(context)}
        return texts | {"answers": answers_as_lists(row.get(answers))}

    return clean


def find_error(row: Row) -> str | None:
    """Return why a row is bad: a field is missing, or an answer is not at its start."""
    texts, answers = [row["question"], row["context"]], row["answers"]
    if answers is None or None in texts:
        return "no answers" if answers is None else "no question or context"
    if not all(isinstance(text, str) for text in texts):
        return "text of another type"
    if not all(map(str.strip, texts)):
        return "empty text"
    return _wrong_answers(answers, row["context"])


def _wrong_answers(answers: Any, context: str) -> str | None:
    if not isinstance(answers, dict) or len(answers["text"]) != len(answers["answer_start"]):
        return "answers of another shape"
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if not isinstance(text, str) or type(start) is not int:
            return "answers of another shape"
        if not text.strip():
            return "empty answer"
        if start < 0 or context[start : start + len(text)] != text:
            return "answer not at its place"
    return None


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the classes "no answer" and "answer" if train has unanswered questions, or none.

    Raises:
        DataError: another split has them, and train has none to learn it from.
    """
    without = [split for split, rows in splits.items() if _some_unanswered(rows)]
    if without and "train" not in without:
        raise DataError(
            f"data.label: {without[0]} has questions without an answer, train has none to learn "
            "that from"
        )
    return list(_LABELS) if without else []


def _some_unanswered(rows: Dataset) -> bool:
    sizes = pc.list_value_length(pc.struct_field(rows.data.column("answers"), "text"))
    return bool(pc.min(sizes).as_py() == 0)


SCHEMA = RowSchema(
    kind="question-answering",
    features=Features(
        {
            "question": Value("string"),
            "context": Value("string"),
            "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
        }
    ),
    metrics=("squad_f1", "squad_em"),
    build_template=build_template,
    find_error=find_error,
    find_classes=find_classes,
    matches_columns=lambda names: {"question", "context", "answers"} <= {*names},
    identity_columns=("question", "context"),
    group_columns=("context",),
)


class QuestionAnswering(Task):
    """Predict where an answer begins and ends with a head on every token.

    A context longer than `data.max_length` becomes windows. A row trains on the one that holds
    the most of its first answer and of its surroundings; for a test row every window is read. No
    answer is represented by the first token.
    """

    schema = SCHEMA
    name = "question-answering"
    model_class = AutoModelForQuestionAnswering
    task_type = "QUESTION_ANS"
    inputs = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    metrics = SCHEMA.metrics

    @classmethod
    def max_length(cls, requested: int, config: Any) -> int:
        if requested < MIN_WINDOW_TOKENS:
            raise ConfigError(
                f"data.max_length must be at least {MIN_WINDOW_TOKENS} for answers in a "
                f"context, got {requested}"
            )
        return requested

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Tokenize the window that each row trains on, and locate the answer in it."""
        if not getattr(processor, "is_fast", False):
            raise ConfigError(
                f"answers in a context need a fast tokenizer, which says where a token comes from; "
                f"{type(processor).__name__} is none"
            )
        whole = processor(rows["question"], rows["context"], verbose=False)["input_ids"]
        parts = self._windows(rows, processor)
        trained = training_windows(rows, parts)
        chosen = [parts[number] for number, _, _ in trained]
        made: Columns = {
            name: [part.inputs[name] for part in chosen]
            for name in self.inputs
            if name in chosen[0].inputs
        }
        made["start_positions"] = [first for _, first, _ in trained]
        made["end_positions"] = [last for _, _, last in trained]
        if self.card.labels:
            made["label"] = [int(bool(answers["text"])) for answers in rows["answers"]]
        made["length"] = [len(part.begin) for part in chosen]
        sizes = zip(whole, made["length"], strict=True)
        return made | {"num_truncated": [max(len(ids) - kept, 0) for ids, kept in sizes]}

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        collate: Callable[[list[Row]], Batch] = DataCollatorWithPadding(processor)
        return collate

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Predictions:
        """Predict the best span of all windows of a row; no answer if it scores more in each."""
        texts: list[str] = []
        loss = 0.0
        for part in rows.select_columns([*SCHEMA.features]).iter(_CHUNK):
            found, lost = self._answers(model, part, processor, batch_size)
            texts += found
            loss += lost
        right = object_array([answers["text"] for answers in rows["answers"]])
        return Predictions(labels=right, predictions=object_array(texts), loss=loss / len(rows))

    def table(self, found: Predictions) -> pd.DataFrame:
        """Return the right answers as a JSON list, and the predicted one."""
        right = [json.dumps(list(texts), ensure_ascii=False) for texts in found.labels]
        return pd.DataFrame({"label": right, "prediction": found.predictions})

    def _windows(self, rows: Columns, processor: Any) -> list[Window]:
        length = self.card.max_length
        return split_into_windows(rows["question"], rows["context"], processor, length=length)

    def _answers(
        self, model: Any, rows: Columns, processor: Any, batch_size: int
    ) -> tuple[list[str], float]:
        """Return the predicted answers of some questions, and the sum of their losses."""
        parts = self._windows(rows, processor)
        fed = Dataset.from_list([part.inputs | {"length": len(part.begin)} for part in parts])
        targets = {n: (first, last) for n, first, last in training_windows(rows, parts)}
        best, loss = [(float("-inf"), "")] * len(rows["question"]), 0.0
        nothing = [float("inf")] * len(best)
        for numbers, _, output in run_model(self, model, fed, processor, batch_size=batch_size):
            here = [parts[number] for number in numbers]
            start, end = output.start_logits.float(), output.end_logits.float()
            check_finite((start + end).cpu().numpy(), [part.row for part in here])
            context = _padded([part.begin >= 0 for part in here], start)
            spans = [*find_best_spans(start, end, context), start[:, 0] + end[:, 0]]
            for part, (score, first, last, none) in zip(here, _rows(spans), strict=True):
                text = rows["context"][part.row][part.begin[first] : part.end[last]].strip()
                best[part.row] = max(best[part.row], (score, text), key=lambda pair: pair[0])
                nothing[part.row] = min(nothing[part.row], none)
            tokens = _padded([np.ones(len(part.begin), bool) for part in here], start)
            loss += _loss(start, end, tokens, [targets.get(number) for number in numbers])
        may, pairs = bool(self.card.labels), zip(best, nothing, strict=True)
        return ["" if may and none >= score else text for (score, text), none in pairs], loss


def training_windows(rows: Columns, parts: Sequence[Window]) -> list[tuple[int, int, int]]:
    """Return for each row the window to train on, and the answer's first and last token.

    For a question without an answer, these are the first window and its first token.
    """
    best: list[tuple[int, int, int, int, int]] = [(-1, 0, 0, 0, 0)] * len(rows["question"])
    for number, part in enumerate(parts):
        answers = rows["answers"][part.row]
        text, start = (*answers["text"], "")[0], (*answers["answer_start"], 0)[0]
        covered, margin, first, last = part.target(start, start + len(text))
        if (covered, margin) > best[part.row][:2]:
            best[part.row] = (covered, margin, number, first, last)
    return [(number, first, last) for _, _, number, first, last in best]


def _padded(rows: Sequence[NDArray[np.bool_]], like: torch.Tensor) -> torch.Tensor:
    """Return rows as one tensor of the shape of `like`, padded with False."""
    made = np.zeros(tuple(like.shape), bool)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return torch.from_numpy(made).to(like.device)


def _rows(columns: Sequence[torch.Tensor]) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _loss(
    start: torch.Tensor,
    end: torch.Tensor,
    tokens: torch.Tensor,
    targets: Sequence[tuple[int, int] | None],
) -> float:
    """Return the sum over the windows to train on, without padding."""
    trained = [number for number, target in enumerate(targets) if target]
    if not trained:
        return 0.0
    target = torch.tensor([targets[number] for number in trained], device=start.device)
    first, last = (x[trained].masked_fill(~tokens[trained], float("-inf")) for x in (start, end))
    return float(span_loss(first, last, target).sum())
