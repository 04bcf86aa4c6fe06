"""What every task defines: its rows, its model class, its batches and its predictions.

A task is a class in a module of its own, and a line in `registry`. No other module of the pipeline
distinguishes tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from datasets import Dataset
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from pipeline.common.console import Progress
from pipeline.common.data_card import DataCard, SplitStatistics
from pipeline.common.params import GenerationSection
from pipeline.tasks.class_weights import compute_balanced_weights, compute_weighted_cross_entropy
from pipeline.tasks.schema import Row, RowSchema

Values = NDArray[Any]
Batch = dict[str, Any]
_Item = TypeVar("_Item")
Columns = dict[str, list[Any]]
Processor: TypeAlias = "PreTrainedTokenizerBase | BaseImageProcessor"

IGNORED = -100  # label of tokens that transformers leaves out of the loss


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of a model, in the order of the rows.

    Attributes:
        labels: one entry a row; of multi-label rows 0 or 1 for each class.
        predictions: likewise; None if the model did not generate texts.
        loss: mean over the rows, or over the tokens in text generation.
        scores: probability of each class or choice, shape (rows, classes), if the task has these.
        groups: group of each row, where a metric counts groups.
        tokens: for text generation, the number of tokens in the reference and their summed
            negative log-likelihood, shape (rows, 2).
    """

    labels: Values
    predictions: Values | None
    loss: float
    scores: Values | None = None
    groups: Values | None = None
    tokens: Values | None = None

    def select_metric_inputs(self, metric: str) -> tuple[Values, Values] | None:
        """Return the labels and predictions that the metric compares; None without predictions."""
        if metric == "perplexity":
            return None if self.tokens is None else (self.tokens[:, 0], self.tokens[:, 1])
        if metric == "average_precision":
            return None if self.scores is None else (self.labels, self.scores)
        return None if self.predictions is None else (self.labels, self.predictions)


class Task(ABC):
    """One way to model rows of a schema, bound to the data card of prepared rows.

    Attributes:
        schema: of the rows, before they are encoded.
        name: as in the data card's `task_name`.
        variant: what tells it from the other tasks of its data.kind, for messages.
        model_class: transformers' Auto class of the model.
        processor_class: transformers' Auto class of the tokenizer or image processor.
        processor_options: keyword arguments of its `from_pretrained`.
        task_type: peft's name.
        fixed_length: whether all rows have the same length, as images have.
        new_head: whether the model gets a new head, which is trained and saved completely.
        loss_tokens: the positions whose labels the loss is a mean over; None: a mean over rows.
        inputs: columns of the prepared rows that a batch is made from, if they exist.
        token_columns: columns of the prepared rows that hold token ids of texts.
        metrics: all metrics, the default main one first.
        optional: further metrics that data.metric may name.
        selection_metric: the metric by which validation selects a checkpoint; None: the main one.
        supports_class_weights: whether data.class_weights may weight the loss.
        supports_packing: whether data.packing may put several rows in one.
        supports_neutral_prompt: whether scores can be corrected by data.neutral_prompt.
    """

    schema: ClassVar[RowSchema]
    name: ClassVar[str]
    variant: ClassVar[str] = ""
    model_class: ClassVar[Any]
    processor_class: ClassVar[Any] = AutoTokenizer
    processor_options: ClassVar[dict[str, Any]] = {}
    task_type: ClassVar[str | None]
    fixed_length: ClassVar[bool] = False
    new_head: ClassVar[bool] = True
    loss_tokens: ClassVar[slice | None] = None
    inputs: ClassVar[tuple[str, ...]]
    token_columns: ClassVar[tuple[str, ...]] = ("input_ids",)
    metrics: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    selection_metric: ClassVar[str | None] = None
    supports_class_weights: ClassVar[bool] = False
    supports_packing: ClassVar[bool] = False
    supports_neutral_prompt: ClassVar[bool] = False

    def __init__(self, card: DataCard, *, title: str = "") -> None:
        """Bind a task to a data card; it has statistics only once the rows are prepared.

        Args:
            card: of the rows.
            title: of the progress of predictions; empty: it is not shown.
        """
        self.card, self.title = card, title

    @classmethod
    def describe(cls) -> str:
        """Return the task type as params.yaml names it, and the variant: for people to read."""
        return f"{cls.schema.kind} {cls.variant}".rstrip()

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        """Return whether rows with these classes can be modelled so by a model of this config."""
        return True

    @classmethod
    def has_trained_head(cls, config: PretrainedConfig) -> bool:
        """Return whether a checkpoint with this config comes with a head for this task."""
        head = cls.model_class.__name__.removeprefix("AutoModel")
        return any(name.endswith(head) for name in config.architectures or ())

    @classmethod
    def find_max_length(cls, requested: int, config: PretrainedConfig) -> int:
        """Return how many tokens a row may have: data.max_length, unless the model fixes it.

        Raises:
            ConfigError: it is too short for this task.
        """
        return requested

    @classmethod
    def check_metric(
        cls, metric: str, section: GenerationSection, config: PretrainedConfig
    ) -> None:
        """Check that the metric can be computed for a model of this config with these settings.

        Raises:
            ConfigError: it can't be.
        """
        return

    @abstractmethod
    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Encode clean rows: the model's inputs, `length` (tokens) and `num_truncated` (tokens).

        Rows are not padded. Called with some hundred rows at a time, in several processes.
        """

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        """Return a function that turns encoded rows into a padded batch of the model's inputs."""
        collate: Callable[[list[Row]], Batch] = DataCollatorWithPadding(processor)
        return collate

    @abstractmethod
    def predict(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> Predictions:
        """Run the model on encoded rows and return its predictions and loss."""

    def compute_loss(self, output: Any, batch: Mapping[str, Any]) -> Tensor:
        """Return the loss of a batch: the model's own, or with the card's class weights."""
        if self.card.class_weights:
            return self.compute_weighted_loss(output.logits, batch["labels"])
        loss: Tensor = output.loss
        return loss

    def balance_classes(self, train: SplitStatistics) -> tuple[float, ...]:
        """Return the weight of each class in the loss, for `data.class_weights: balanced`."""
        return compute_balanced_weights([*train.labels.values()])

    def compute_weighted_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch with the card's class weights."""
        return compute_weighted_cross_entropy(logits, labels, self.card.class_weights)

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        """Return further entries of the data card, computed from the encoded rows of train."""
        return {}

    def list_shown_tokens(self, row: Row) -> list[int]:
        """Return the tokens of an encoded row that tell a person what the model sees."""
        ids: list[int] = row["input_ids"]
        return ids

    def find_unstored_tokens(
        self, rows: Dataset, processor: Processor
    ) -> Iterator[tuple[str, list[int]]]:
        """Yield tokens that evaluation reads and `token_columns` lack, and where they are."""
        yield from ()

    def describe_target(self, row: Row, processor: Processor) -> str:
        """Return what is to be predicted for an encoded row: the class or the number."""
        return self.card.labels[row["label"]] if self.card.labels else f"{row['label']:g}"

    def list_warnings(self) -> list[str]:
        """Return lines for the log of the stage prepare."""
        return []

    def keep_selection_metric(self) -> Task:
        """Return the same task with the selection metric as its only metric."""
        card = self.card.model_copy(update={"metrics": (self.card.selection_metric,)})
        return type(self)(card, title=self.title)

    def track(self, batches: Sequence[_Item], unit: str = "batch") -> Iterator[_Item]:
        """Yield batches, and show how many are done if the task has a title."""
        if not self.title:
            return iter(batches)
        return Progress(self.title, len(batches), unit=unit).track(batches)

    def make_model_options(self) -> dict[str, Any]:
        """Return keyword arguments of `from_pretrained` that depend on the task."""
        return {}

    def make_table(self, predictions: Predictions) -> pd.DataFrame:
        """Return a table with the label and the prediction of each row."""
        return pd.DataFrame({"label": predictions.labels, "prediction": predictions.predictions})

    def predict_unlabeled(
        self, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
    ) -> list[Row]:
        """Run the model on encoded rows whose targets are made up; return values for JSON."""
        return self.make_outputs(self.predict(model, rows, processor, batch_size=batch_size), rows)

    def make_outputs(self, predictions: Predictions, rows: Dataset) -> list[Row]:
        """Return the prediction of each row as values for JSON."""
        assert predictions.predictions is not None
        return [{"prediction": value} for value in predictions.predictions.tolist()]


def round_number(value: Any) -> float:
    """Return a number with six digits, as it is written to files."""
    return float(f"{value:.6g}")


def is_decoder(config: PretrainedConfig) -> bool:
    """Return whether a model is a decoder, which continues a text.

    A model type with both a masked and a causal language head is one if its configuration says so.
    """
    if config.is_encoder_decoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    has_masked_head = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return not has_masked_head or bool(getattr(config, "is_decoder", False))


def describe_classes(names: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a model's configuration that describe its classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def make_object_array(rows: Sequence[Any]) -> Values:
    """Return lists or texts as an array with one entry a row."""
    array = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):  # np.array would turn lists of one length into a matrix
        array[number] = row
    return array
