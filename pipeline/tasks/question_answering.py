"""Extractive question answering, as in SQuAD: the answer is a span of the context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForQuestionAnswering, PretrainedConfig

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks.base import Columns, Predictions, Processor, Task, make_object_array
from pipeline.tasks.context_windows import (
    MIN_WINDOW_TOKENS,
    Window,
    compute_span_loss,
    find_best_spans,
    split_into_windows,
)
from pipeline.tasks.inference import check_finite, run_model
from pipeline.tasks.schema import (
    InputColumns,
    Row,
    RowSchema,
    Template,
    convert_answers,
    name_texts,
    require_column,
)
from pipeline.tasks.tokenization import require_fast_tokenizer

_LABELS = ["no answer", "answer"]
_CHUNK = 1000  # questions whose windows are in memory at a time


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for question, context and answers, or the columns params.yaml names.

    Raises:
        ConfigError: data.text names one column only.
        DataError: there is no such column.
    """
    columns = section.text or ["question", "context"]
    if isinstance(columns, str) or len(columns) != 2:
        raise ConfigError(f"data.text must be the columns of question and context, got {columns}")
    question, context = (require_column(name, first, "data.text") for name in columns)
    answers = require_column(section.label or "answers", first, "data.label")

    def clean(row: Row) -> Row:
        texts = {"question": row.get(question), "context": row.get(context)}
        return texts | {"answers": convert_answers(row.get(answers))}

    return clean


def find_error(row: Row) -> str | None:
    """Return why a row is bad: a field is missing, or the context lacks an answer at its start."""
    texts, answers = [row["question"], row["context"]], row["answers"]
    if answers is None or None in texts:
        return "no answers" if answers is None else "no question or context"
    if not all(isinstance(text, str) for text in texts):
        return "text of another type"
    if not all(map(str.strip, texts)):
        return "empty text"
    return _find_answer_error(answers, row["context"])


def _find_answer_error(answers: Any, context: str) -> str | None:
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
    unanswered = [split for split, rows in splits.items() if _has_unanswered(rows)]
    if unanswered and "train" not in unanswered:
        raise DataError(
            f"data.label: {unanswered[0]} has questions without an answer, train has none to learn "
            "that from"
        )
    return list(_LABELS) if unanswered else []


def _has_unanswered(rows: Dataset) -> bool:
    answer_counts = pc.list_value_length(pc.struct_field(rows.data.column("answers"), "text"))
    return bool(pc.min(answer_counts).as_py() == 0)


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
    inputs=InputColumns(
        required=(("question", "context"),),
        add_target=lambda row, classes: row | {"answers": {"text": [], "answer_start": []}},
        read_texts=name_texts("question", "context"),
    ),
    identity_columns=("question", "context"),
    group_columns=("context",),
)


class QuestionAnswering(Task):
    """Predict the first and the last token of an answer with a head on every token.

    A context longer than `data.max_length` is split into windows. A row trains on the window that
    contains the most of its first answer, and of the context on both sides of it; evaluation reads
    every window. The first token of a window represents "no answer".
    """

    schema = SCHEMA
    name = "question-answering"
    model_class = AutoModelForQuestionAnswering
    task_type = "QUESTION_ANS"
    inputs = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    metrics = SCHEMA.metrics

    @classmethod
    def find_max_length(cls, requested: int, config: PretrainedConfig) -> int:
        if requested < MIN_WINDOW_TOKENS:
            raise ConfigError(
                f"data.max_length must be at least {MIN_WINDOW_TOKENS} for answers in a "
                f"context, got {requested}"
            )
        return requested

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize the window that each row trains on, and locate the answer in it."""
        require_fast_tokenizer(processor, SCHEMA.kind, purpose="locate answers")
        full = processor(rows["question"], rows["context"], verbose=False)["input_ids"]
        windows = split_into_windows(rows, processor, length=self.card.max_length)
        spans = find_training_spans(rows, windows)
        chosen = [windows[number] for number, _, _ in spans]
        names = [name for name in self.inputs if name in chosen[0].inputs]
        columns: Columns = {name: [window.inputs[name] for window in chosen] for name in names}
        columns["start_positions"] = [first for _, first, _ in spans]
        columns["end_positions"] = [last for _, _, last in spans]
        if self.card.labels:
            columns["label"] = [int(bool(answers["text"])) for answers in rows["answers"]]
        lengths = [len(window.begin) for window in chosen]
        lost = [max(len(ids) - kept, 0) for ids, kept in zip(full, lengths, strict=True)]
        return columns | {"length": lengths, "num_truncated": lost}

    def find_unstored_tokens(
        self, rows: Dataset, processor: Processor
    ) -> Iterator[tuple[str, list[int]]]:
        """Yield the tokens of every window, of which a row stores the one to train on."""
        for chunk in rows.select_columns([*SCHEMA.features]).iter(_CHUNK):
            for window in split_into_windows(chunk, processor, length=self.card.max_length):
                yield "a window of evaluation", window.inputs["input_ids"]

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the tokens of the answer, or that there is none."""
        if not row["answers"]["text"]:
            return _LABELS[0]
        span = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
        return str(processor.decode(span))

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        """Predict the best span of all windows of a row; no answer if it scores more in each."""
        texts: list[str] = []
        loss = 0.0
        for chunk in rows.select_columns([*SCHEMA.features]).iter(_CHUNK):
            chunk_texts, chunk_loss = self._predict_texts(model, chunk, processor, batch_size)
            texts += chunk_texts
            loss += chunk_loss
        answers = make_object_array([answers["text"] for answers in rows["answers"]])
        return Predictions(
            labels=answers, predictions=make_object_array(texts), loss=loss / len(rows)
        )

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        """Return a table with the right answers as a JSON list, and the predicted one."""
        answers = [json.dumps(list(texts), ensure_ascii=False) for texts in predictions.labels]
        return pd.DataFrame({"label": answers, "prediction": predictions.predictions})

    def _predict_texts(
        self, model: PeftModel, rows: Columns, processor: Processor, batch_size: int
    ) -> tuple[list[str], float]:
        """Return the predicted answers of some questions, and the sum of their losses."""
        windows = split_into_windows(rows, processor, length=self.card.max_length)
        inputs = Dataset.from_list([w.inputs | {"length": len(w.begin)} for w in windows])
        targets = {n: (first, last) for n, first, last in find_training_spans(rows, windows)}
        best, loss = [(float("-inf"), "")] * len(rows["question"]), 0.0
        no_answer = [float("inf")] * len(best)
        for numbers, _, output in run_model(self, model, inputs, processor, batch_size=batch_size):
            batch = [windows[number] for number in numbers]
            start, end = output.start_logits.float(), output.end_logits.float()
            check_finite((start + end).cpu().numpy(), [window.row for window in batch])
            in_context = _pad([window.begin >= 0 for window in batch], start)
            spans = [*find_best_spans(start, end, in_context), start[:, 0] + end[:, 0]]
            for window, score, first, last, none_score in zip(
                batch, *(column.tolist() for column in spans), strict=True
            ):
                row, context = window.row, rows["context"][window.row]
                text = context[window.begin[first] : window.end[last]].strip()
                best[row] = max(best[row], (score, text), key=lambda candidate: candidate[0])
                no_answer[row] = min(no_answer[row], none_score)
            is_token = _pad([np.ones(len(window.begin), bool) for window in batch], start)
            loss += _sum_losses(start, end, is_token, [targets.get(number) for number in numbers])
        if not self.card.labels:
            return [text for _, text in best], loss
        pairs = zip(best, no_answer, strict=True)
        return ["" if none_score >= score else text for (score, text), none_score in pairs], loss


def find_training_spans(rows: Columns, windows: Sequence[Window]) -> list[tuple[int, int, int]]:
    """Return for each row the number of the window to train on, and the answer's tokens in it.

    The tokens are the first and the last one. For a question without an answer, these are the
    first window and its first token.
    """
    best: list[tuple[int, int, int, int, int]] = [(-1, 0, 0, 0, 0)] * len(rows["question"])
    for number, window in enumerate(windows):
        answers = rows["answers"][window.row]
        text, start = (*answers["text"], "")[0], (*answers["answer_start"], 0)[0]
        covered, margin, first, last = window.find_answer(start, start + len(text))
        if (covered, margin) > best[window.row][:2]:
            best[window.row] = (covered, margin, number, first, last)
    return [(number, first, last) for _, _, number, first, last in best]


def _pad(masks: Sequence[NDArray[np.bool_]], like: Tensor) -> Tensor:
    """Return masks of the tokens of windows as one tensor, padded with False."""
    return pad_sequence([torch.from_numpy(mask) for mask in masks], batch_first=True).to(
        like.device
    )


def _sum_losses(
    start: Tensor, end: Tensor, is_token: Tensor, targets: Sequence[tuple[int, int] | None]
) -> float:
    """Return the sum of the losses of windows to train on, which have a target."""
    trained = [number for number, target in enumerate(targets) if target]
    if not trained:
        return 0.0
    target = torch.tensor([targets[number] for number in trained], device=start.device)
    padding = ~is_token[trained]
    first, last = (x[trained].masked_fill(padding, float("-inf")) for x in (start, end))
    return float(compute_span_loss(first, last, target).sum())
