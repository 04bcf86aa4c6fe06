"""Classification and regression of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from peft import PeftModel
from scipy.special import softmax
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks.base import (
    Columns,
    Predictions,
    Processor,
    Task,
    Values,
    describe_classes,
    round_number,
)
from pipeline.tasks.inference import check_finite, restore_row_order, run_model
from pipeline.tasks.schema import (
    CLASS_METRICS,
    InputColumns,
    Row,
    RowSchema,
    Template,
    list_columns,
    name_texts,
    require_column,
)
from pipeline.tasks.text_columns import find_text_columns
from pipeline.tasks.text_template import compile_template
from pipeline.tasks.tokenization import map_groups, tokenize


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for one or two columns of text and a label, named or inferred."""
    hint = "; text without labels is for data.kind: text-generation" if not section.label else ""
    label = require_column(section.label or "label", first, "data.label", hint=hint)
    read_texts = build_text_reader(section, first, label=label)
    as_label = (
        labels.convert_to_class if section.metric in CLASS_METRICS else labels.convert_to_text
    )
    return lambda row: read_texts(row) | {"label": as_label(row.get(label))}


def build_text_reader(
    section: DataSection, first: Sequence[Row], *, label: str
) -> Callable[[Row], Row]:
    """Build a function that returns the text of a raw row, or both texts of a pair.

    The columns are those of data.template or data.text, or else the columns of text.
    """
    if section.template is not None:
        fill = compile_template(section.template, first, label=label)
        return lambda row: {"text": fill(row), "text_pair": None}
    columns = [section.text] if isinstance(section.text, str) else section.text
    if columns is None:
        columns = find_text_columns(first, besides={label})
        if len(columns) not in (1, 2):
            raise DataError(
                f"data.text auto needs one or two columns of text beside {label!r}, found "
                f"{', '.join(columns) or 'none'}; name them in data.text; "
                f"columns: {', '.join(list_columns(first))}"
            )
    columns = [require_column(name, first, "data.text") for name in columns]
    if len({*columns, label}) < len(columns) + 1:
        raise ConfigError(f"data.text and data.label must differ, got {columns} and {label!r}")

    def read_texts(row: Row) -> Row:
        texts = ["" if row.get(name) is None else row[name] for name in columns]
        return {"text": texts[0], "text_pair": texts[1] if len(texts) > 1 else None}

    return read_texts


def find_error(row: Row) -> str | None:
    """Return why a row is bad: a text or the label is missing or of another type."""
    texts = [text for text in (row["text"], row.get("text_pair")) if text is not None]
    if row["label"] is None:
        return "no label"
    if not all(isinstance(text, str) for text in texts):
        return "text of another type"
    return None if row["text"] is not None and all(map(str.strip, texts)) else "empty text"


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the classes of train; empty for regression."""
    counts = pc.value_counts(splits["train"].data.column("label")).to_pylist()
    names = labels.list_classes({count["values"]: count["counts"] for count in counts}, known)
    if names and len(counts) < 2:
        raise DataError("data.label: the label column of train has one class only")
    return names


def add_target(row: Row, classes: Sequence[str]) -> Row:
    """Return a row to predict with the first class, or a number."""
    return {"text_pair": None, **row, "label": classes[0] if classes else "0.0"}


INPUTS = InputColumns(
    required=(("text",),),
    optional=("text_pair",),
    add_target=add_target,
    read_texts=name_texts("text", "text_pair"),
)
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
    supports_text_template=True,
    find_error=find_error,
    find_classes=find_classes,
    label_column="label",
    inputs=INPUTS,
    identity_columns=("text", "text_pair"),
)


def _separates_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer puts a token between two texts, as those of encoders do."""
    count_special = tokenizer.num_special_tokens_to_add
    return bool(count_special(pair=True) > count_special(pair=False))


class TextClassification(Task):
    """Predict a class for each row with a head on the pooled or the last token."""

    schema = SCHEMA
    name = "text-classification"
    model_class = AutoModelForSequenceClassification
    task_type: ClassVar[str | None] = "SEQ_CLS"
    supports_class_weights = True
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids", "label")
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "mcc")
    optional: ClassVar[tuple[str, ...]] = ("f1_macro", "balanced_accuracy")

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return bool(classes)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Tokenize a text, or a pair in one row, and convert the label to its id."""
        has_pair = [text is not None for text in rows["text_pair"]]
        start = "" if _separates_pairs(processor) else "\n"

        def tokenize_rows(numbers: list[int]) -> list[Row]:
            texts = [[rows["text"][number] for number in numbers]]
            if has_pair[numbers[0]]:
                texts.append([f"{start}{rows['text_pair'][number]}" for number in numbers])
            encoded, lengths = tokenize(processor, *texts, max_length=self.card.max_length)
            columns = {name: encoded[name] for name in self.inputs if name in encoded} | lengths
            return [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]

        encoded_rows = map_groups(has_pair, tokenize_rows)
        columns = {name: [row[name] for row in encoded_rows] for name in encoded_rows[0]}
        return columns | {"label": self.encode_labels(rows["label"])}

    def encode_labels(self, values: list[Any]) -> list[Any]:
        """Return the class id, or the number, of each row."""
        return labels.encode(values, classes=self.card.labels, split="this split")

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        """Return the class that F1 is of: where nothing names it, the rarer one of two."""
        names, positive = self.card.labels, self.card.positive_class
        if positive is None and len(names) == 2:
            ones = np.mean(train.data.column("label").to_numpy())
            positive = names[1] if ones <= 0.5 else names[0]
        return {"positive_class": positive}

    def make_model_options(self) -> dict[str, Any]:
        return describe_classes(self.card.labels) | {"problem_type": "single_label_classification"}

    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        order: list[int] = []
        batch_logits, loss = [], 0.0
        for numbers, batch, output in run_model(
            self, model, rows, processor, batch_size=batch_size
        ):
            order += numbers
            batch_logits.append(output.logits.float().cpu().numpy())
            loss += float(self.compute_loss(output, batch)) * len(numbers)
        logits = restore_row_order(order, np.concatenate(batch_logits))
        check_finite(logits)
        predictions = self.to_predictions(list(rows["label"]), logits, loss / len(order))
        groups = np.asarray(rows["group"]) if "group" in rows.column_names else None
        return replace(predictions, groups=groups)

    def to_predictions(self, label_ids: list[Any], logits: Values, loss: float) -> Predictions:
        """Return the most probable class of each row, and the probability of each class."""
        best, scores = logits.argmax(axis=1), softmax(logits, axis=1)
        return Predictions(labels=np.asarray(label_ids), predictions=best, loss=loss, scores=scores)

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        """Return a table with the names of classes, and the probability of each class."""
        assert predictions.predictions is not None
        label, prediction = map(self.name_classes, (predictions.labels, predictions.predictions))
        table = pd.DataFrame({"label": label, "prediction": prediction})
        if predictions.scores is not None:
            for index, name in enumerate(self.card.labels):
                table[f"score {name}"] = predictions.scores[:, index]
        return table

    def make_outputs(self, predictions: Predictions, rows: Dataset) -> list[Row]:
        """Return the class of each row, or its classes, and the probability of each class."""
        assert predictions.predictions is not None
        assert predictions.scores is not None
        pairs = zip(predictions.predictions, predictions.scores, strict=True)
        names = self.card.labels
        return [
            {
                "prediction": self.decode_prediction(value),
                "scores": dict(zip(names, map(round_number, scores), strict=True)),
            }
            for value, scores in pairs
        ]

    def decode_prediction(self, value: Any) -> Any:
        """Return the name of a predicted class."""
        return self.card.labels[value]

    def name_classes(self, values: Values) -> list[str]:
        """Return the name of each row's class."""
        return [self.card.labels[index] for index in values]


class TextRegression(TextClassification):
    """Predict a number for each row."""

    name = "text-regression"
    variant = "of numbers"
    metrics = SCHEMA.regression_metrics
    optional = ()
    supports_class_weights = False

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return not classes

    def make_model_options(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def to_predictions(self, label_ids: list[Any], logits: Values, loss: float) -> Predictions:
        return Predictions(labels=np.asarray(label_ids), predictions=logits[:, 0], loss=loss)

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        return Task.make_table(self, predictions)

    def make_outputs(self, predictions: Predictions, rows: Dataset) -> list[Row]:
        assert predictions.predictions is not None
        return [{"prediction": round_number(value)} for value in predictions.predictions]
