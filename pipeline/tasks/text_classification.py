"""Classification and regression of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from scipy.special import softmax
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PretrainedConfig,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.base import Batch, Columns, Predictions, Task, class_options
from pipeline.tasks.inference import check_finite, restore_row_order, run_model
from pipeline.tasks.schema import (
    CLASS_METRICS,
    Row,
    RowSchema,
    Template,
    column_names,
    require_column,
)


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for one or two columns of text and a label, named or inferred."""
    label = require_column(section.label or "label", first, "data.label")
    text = [section.text] if isinstance(section.text, str) else section.text
    if text is None:
        names = [name for name in column_names(first) if name != label]
        text = [name for name in names if labels.is_text([row.get(name) for row in first])]
        if len(text) not in (1, 2):
            raise DataError(
                f"data.text auto needs one or two columns of text beside {label!r}, found "
                f"{', '.join(text) or 'none'}; name them in data.text; "
                f"columns: {', '.join(column_names(first))}"
            )
    text = [require_column(name, first, "data.text") for name in text]
    if len({*text, label}) < len(text) + 1:
        raise ConfigError(f"data.text and data.label must differ, got {text} and {label!r}")

    def clean(row: Row) -> Row:
        texts = ["" if row.get(name) is None else row[name] for name in text]
        pair = texts[1] if len(texts) > 1 else None
        return {"text": texts[0], "text_pair": pair, "label": labels.as_text(row.get(label))}

    return clean


def find_error(row: Row) -> str | None:
    """Return why a row is bad: a text or the label is missing or of another type."""
    texts = [text for text in (row["text"], row.get("text_pair")) if text is not None]
    if row["label"] is None:
        return "no label"
    if not all(isinstance(text, str) for text in texts):
        return "text of another type"
    return None if texts and all(map(str.strip, texts)) else "empty text"


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the classes of train; empty for regression."""
    found = pc.value_counts(splits["train"].data.column("label")).to_pylist()
    names = labels.class_names({row["values"]: row["counts"] for row in found}, known)
    if names and len(found) < 2:
        raise DataError("data.label: the label column of train has one class only")
    return names


SCHEMA = RowSchema(
    kind="text-classification",
    features=Features(
        {
            "text": Value("string"),
            "text_pair": Value("string"),
            "label": Value("string"),
            "group": Value("string"),  # rows of one question, for metrics over questions
        }
    ),
    metrics=(*CLASS_METRICS, "multirc_f1a", "multirc_em"),
    regression_metrics=("pearson", "spearman"),
    build_template=build_template,
    find_error=find_error,
    find_classes=find_classes,
    label_column="label",
    identity_columns=("text", "text_pair"),
)


def _separates_pairs(processor: Any) -> bool:
    """Return whether the tokenizer puts a token between two texts, as encoders' do."""
    marks = processor.num_special_tokens_to_add
    return bool(marks(pair=True) > marks(pair=False))


class TextClassification(Task):
    """Predict a class for each row with a head on the pooled or the last token."""

    schema = SCHEMA
    name = "text-classification"
    model_class = AutoModelForSequenceClassification
    task_type: ClassVar[str | None] = "SEQ_CLS"
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids", "label")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "mcc")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return bool(classes)

    def encode(self, rows: Columns, processor: Any) -> Columns:
        """Tokenize a text, or a pair in one row, and convert the label to its id."""
        texts, seconds = [rows["text"]], rows["text_pair"]
        if seconds[0] is not None:
            texts.append(
                seconds if _separates_pairs(processor) else [f"\n{text}" for text in seconds]
            )
        whole, longest = processor(*texts, verbose=False), self.card.max_length
        sizes = [len(ids) for ids in whole["input_ids"]]
        # Most batches need no second pass, which takes as long as the first.
        short = max(sizes) <= longest
        cut = whole if short else processor(*texts, truncation=True, max_length=longest)
        made = {name: cut[name] for name in self.inputs if name in cut}
        kept = [len(ids) for ids in cut["input_ids"]]
        return made | {
            "label": labels.encode(rows["label"], classes=self.card.labels, split="this split"),
            "length": kept,
            "num_truncated": [full - left for full, left in zip(sizes, kept, strict=True)],
        }

    def collator(self, processor: Any) -> Callable[[list[Row]], Batch]:
        collate: Callable[[list[Row]], Batch] = DataCollatorWithPadding(processor)
        return collate

    def model_options(self) -> dict[str, Any]:
        return class_options(self.card.labels) | {"problem_type": "single_label_classification"}

    def predict(self, model: Any, rows: Dataset, processor: Any, *, batch_size: int) -> Predictions:
        order: list[int] = []
        parts, loss = [], 0.0
        for numbers, _, output in run_model(self, model, rows, processor, batch_size=batch_size):
            order += numbers
            parts.append(output.logits.float().cpu().numpy())
            loss += float(output.loss) * len(numbers)
        logits = restore_row_order(order, np.concatenate(parts))
        check_finite(logits)
        predictions = self.to_predictions(np.asarray(rows["label"]), logits, loss / len(order))
        groups = np.asarray(rows["group"]) if "group" in rows.column_names else None
        return replace(predictions, groups=groups)

    def to_predictions(self, truth: Any, logits: Any, loss: float) -> Predictions:
        """Return the most probable class of each row, and the probability of each class."""
        return Predictions(
            labels=truth,
            predictions=logits.argmax(axis=1),
            loss=loss,
            scores=softmax(logits, axis=1),
        )

    def table(self, found: Predictions) -> pd.DataFrame:
        names = np.asarray(self.card.labels)
        table = pd.DataFrame({"label": names[found.labels], "prediction": names[found.predictions]})
        if found.scores is not None:
            for index, name in enumerate(names):
                table[f"score {name}"] = found.scores[:, index]
        return table


class TextRegression(TextClassification):
    """Predict a number for each row."""

    name = "text-regression"
    metrics = SCHEMA.regression_metrics

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return not classes

    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def to_predictions(self, truth: Any, logits: Any, loss: float) -> Predictions:
        return Predictions(labels=truth, predictions=logits[:, 0], loss=loss)

    def table(self, found: Predictions) -> pd.DataFrame:
        return Task.table(self, found)
