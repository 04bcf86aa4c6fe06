"""Multi-label classification of a text or a pair of texts: any number of classes for each row."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value
from scipy.special import expit
from torch import Tensor

from pipeline.common.data_card import SplitStatistics
from pipeline.common.errors import DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks import text_classification as classify
from pipeline.tasks.base import Batch, Predictions, Processor, Task, Values, describe_classes
from pipeline.tasks.class_weights import (
    compute_positive_weights,
    compute_weighted_binary_cross_entropy,
)
from pipeline.tasks.schema import Row, RowSchema, Template, list_columns, require_column

_BITS = {"0", "1", "0.0", "1.0", "False", "True"}


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for the texts and a list of labels, named or inferred.

    Raises:
        DataError: there is no such column, or its lists are of 0 and 1.
    """
    label = require_column(_find_label_column(section, first), first, "data.label")
    read_texts = classify.build_text_reader(section, first, label=label)
    lists = [found for row in first if isinstance(found := read_list(row.get(label)), list)]
    repeats = any(len({*found}) < len(found) for found in lists)
    if repeats and {name for found in lists for name in found} <= _BITS:
        raise DataError(
            f"data.label: {label!r} has lists of 0 and 1, such as {lists[0]}; "
            "a list must hold the classes that the row has"
        )
    return lambda row: read_texts(row) | {"label": read_list(row.get(label))}


def has_label_lists(section: DataSection, first: Sequence[Row]) -> bool:
    """Return whether the label column of a file's first rows holds lists."""
    column = _find_label_column(section, first)
    return any(isinstance(read_list(row.get(column)), list) for row in first)


def _find_label_column(section: DataSection, first: Sequence[Row]) -> str:
    names = list_columns(first)
    default = "labels" if "labels" in names and "label" not in names else "label"
    return section.label or default


def read_list(value: Any) -> Any:
    """Return the names in a list of labels or a JSON list; any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if not isinstance(value, list):
        return value
    names = map(labels.convert_to_text, value)
    return [name if name is None else name.strip() for name in names]


def complete(row: Row) -> Row:
    """Return the row with each of its labels once."""
    found = row["label"]
    return row | {"label": [*dict.fromkeys(found)] if isinstance(found, list) else found}


def find_error(row: Row) -> str | None:
    """Return why a row is bad: its text is, or its labels are no list of classes."""
    if isinstance(row["label"], list):
        return "no label in a list" if None in row["label"] else classify.find_error(row)
    return "no label" if labels.is_missing(row["label"]) else "label that is no list"


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the classes of train.

    Raises:
        DataError: there are none, or one only.
    """
    flat = pc.list_flatten(splits["train"].data.column("label").combine_chunks())
    counts = {count["values"]: count["counts"] for count in pc.value_counts(flat).to_pylist()}
    names = labels.list_classes(counts, known)
    if len(names) < 2:
        raise DataError(
            f"data.label: the lists of train must hold two classes or more, found "
            f"{', '.join(names or list(counts)[:3]) or 'none'}"
        )
    return names


SCHEMA = RowSchema(
    kind="multi-label-classification",
    features=Features(
        {
            "text": Value("string"),
            "text_pair": Value("string"),
            "label": List(Value("string")),
        }
    ),
    metrics=("f1_micro", "f1_macro", "subset_accuracy", "average_precision"),
    build_template=build_template,
    supports_text_template=True,
    postprocess=complete,
    find_error=find_error,
    find_classes=find_classes,
    label_column="label",
    inputs=replace(
        classify.INPUTS, add_target=lambda row, classes: {"text_pair": None, **row, "label": []}
    ),
    identity_columns=("text", "text_pair"),
)


class MultiLabelClassification(classify.TextClassification):
    """Predict for each class whether a row has it; those of a probability above a half."""

    schema = SCHEMA
    name = "multi-label-classification"
    metrics = SCHEMA.metrics
    optional = ()

    def encode_labels(self, values: list[Any]) -> list[Any]:
        """Return the class ids of each row, with a type even where no row has a class."""
        names = self.card.labels
        ids = (labels.encode(row, classes=names, split="this split") for row in values)
        return [np.array(row, np.int64) for row in ids]

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        return Task.compute_train_statistics(self, train, processor)

    def balance_classes(self, train: SplitStatistics) -> tuple[float, ...]:
        """Return the weight of the rows with each class against those without it."""
        return compute_positive_weights([*train.labels.values()], train.rows)

    def compute_weighted_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return compute_weighted_binary_cross_entropy(logits, labels, self.card.class_weights)

    def make_model_options(self) -> dict[str, Any]:
        return describe_classes(self.card.labels) | {"problem_type": "multi_label_classification"}

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        pad = super().make_collator(processor)

        def collate(rows: list[Row]) -> Batch:
            batch = pad([{name: row[name] for name in row if name != "label"} for row in rows])
            truth = torch.from_numpy(self._make_indicators([row["label"] for row in rows]))
            return {**batch, "labels": truth.float()}

        return collate

    def _make_indicators(self, label_ids: Sequence[Sequence[int]]) -> Values:
        """Return 1 where a row has a class, else 0, shape `(rows, classes)`."""
        indicators = np.zeros((len(label_ids), len(self.card.labels)), np.int64)
        for indicator, ids in zip(indicators, label_ids, strict=True):
            indicator[ids] = 1
        return indicators

    def to_predictions(self, label_ids: list[Any], logits: Values, loss: float) -> Predictions:
        return Predictions(
            labels=self._make_indicators(label_ids),
            predictions=(logits > 0).astype(np.int64),
            loss=loss,
            scores=expit(logits),
        )

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return the classes of an encoded row."""
        return ", ".join(self.card.labels[index] for index in row["label"]) or "no class"

    def decode_prediction(self, value: Any) -> Any:
        """Return the names of the classes that a row has."""
        return [self.card.labels[index] for index in np.flatnonzero(value)]

    def name_classes(self, values: Values) -> list[str]:
        """Return the classes of each row as a JSON list."""
        return [json.dumps(self.decode_prediction(row), ensure_ascii=False) for row in values]
