"""What every kind of task answers for: its model class, its batches, and what a model says.

A kind is a class in a module of its own; `pipeline.kinds` lists them. Nothing else in the pipeline
knows kinds apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray
from transformers import AutoTokenizer

Values = NDArray[Any]
Row = dict[str, Any]
Batch = dict[str, Any]
Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model said about rows, in the order of the rows.

    Attributes:
        labels: what is right, one entry a row.
        predictions: what the model said, one entry a row.
        loss: mean over the rows.
        scores: a share per class, shape (rows, classes), where the kind has such.
        groups: which rows are measured together, where a metric asks for it.
    """

    labels: Values
    predictions: Values
    loss: float
    scores: Values | None = None
    groups: Values | None = None


class Kind(ABC):
    """One kind of task, with the data card of its rows.

    Attributes:
        name: as in the data card.
        auto: transformers' Auto class of the model.
        processor: transformers' Auto class of what makes rows out of texts or images.
        processor_options: keyword arguments of its `from_pretrained`.
        task_type: peft's name.
        one_length: whether every row is as long, as images are.
        fresh_head: whether the model gets a new head, which is trained and saved whole.
        inputs: columns of the prepared rows that a batch is made from, where there are such.
        metrics: all that are measured, the default main one first.
        select: the metric by which validation chooses; None: the main one.
    """

    name: ClassVar[str]
    auto: ClassVar[Any]
    processor: ClassVar[Any] = AutoTokenizer
    processor_options: ClassVar[dict[str, Any]] = {}
    task_type: ClassVar[str | None]
    one_length: ClassVar[bool] = False
    fresh_head: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    select: ClassVar[str | None] = None

    def __init__(self, card: dict[str, Any]) -> None:
        """Bind a kind to a data card: `labels`, `max_length`, and when prepared all else."""
        self.card = card

    @classmethod
    def length(cls, asked: int, config: Any) -> int:
        """Tokens that a row may have: `data.max_length`, unless the model's inputs are of one size.

        Raises:
            ConfigError: it is too short for this kind.
        """
        return asked

    @abstractmethod
    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Clean rows -> the model's inputs, `length` (tokens) and `lost` (tokens cut off).

        Nothing is padded. Called with some hundred rows at a time, in several processes.
        """

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        """Encoded rows -> a padded batch with labels: keyword arguments of the model."""

    @abstractmethod
    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Found:
        """What the model says about rows it did not train on."""

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained` that the task decides."""
        return {}

    def table(self, found: Found) -> pd.DataFrame:
        """One row per test row: what is right, and what the model said."""
        return pd.DataFrame({"label": found.labels, "prediction": found.predictions})


def class_options(names: Sequence[str]) -> dict[str, Any]:
    """What a model is told of its classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def objects(rows: Sequence[Any]) -> Values:
    """Lists or texts, one entry a row, whatever their lengths."""
    found = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):  # at once, lists of one length would become a matrix
        found[number] = row
    return found
