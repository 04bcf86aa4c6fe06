"""What the stage `prepare` writes: the data card and the encoded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from datasets import Dataset, load_from_disk
from pyarrow import ArrowException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.common.errors import DataError, PipelineError
from pipeline.common.files import read_json, write_json
from pipeline.common.hub_access import describe_newer_commit
from pipeline.common.text import describe_metric, inflect, join_lines, quantify

_FILE = "card.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelOrigin(_Record):
    """The model that the rows were encoded for.

    Attributes:
        name: as in params.yaml.
        requested_revision: branch, tag or commit of params.yaml; None: what the hub had.
        revision: the commit that was loaded; None for a local model.
        files: digest of a local model's files; None for a model of the hub.
    """

    name: str
    requested_revision: str | None = None
    revision: str | None = None
    files: str | None = None


class DataOrigin(_Record):
    """What a split was made from.

    Attributes:
        source: a path, a data set of the hub with its split, or how many rows of train.
        sha256: digest of a local file.
    """

    source: Annotated[str, Field(alias="from")]
    sha256: str | None = None


Origins = dict[str, str | DataOrigin]  # by split; of a built-in task: library -> its version


class HubDataset(_Record):
    """A data set of the hub, and which commit of it was read.

    Attributes:
        id: its id on the hub.
        requested_revision: branch, tag or commit that was asked for; None: the newest commit.
        revision: the commit that was read; None where it is not known.
    """

    id: str
    requested_revision: str | None = None
    revision: str | None = None


class SplitStatistics(_Record):
    """Counts of one split's encoded rows.

    Attributes:
        rows: before packing.
        mean_tokens, p50_tokens, p95_tokens, max_tokens: of a row's length after truncation.
        truncated: rows that were longer than `max_length`.
        tokens_lost, most_lost: tokens cut off, in all rows and in one row at most.
        unknown: fraction of tokens, special ones apart, that are the tokenizer's unknown token;
            None: there are no texts, or the tokenizer knows every text.
        only_unknown: rows without any other token.
        labels: rows (or words) of each class; empty where there are no classes.
        packed: rows after packing; None: they were not packed.
    """

    rows: int
    mean_tokens: float
    p50_tokens: int
    p95_tokens: int
    max_tokens: int
    truncated: int
    tokens_lost: int
    most_lost: int
    unknown: float | None = None
    only_unknown: int | None = None
    labels: dict[str, int]
    packed: int | None = None


class DroppedRows(_Record):
    """Bad rows of one split that were dropped for one reason.

    Attributes:
        rows: their number.
        first: number of the first one, counted from 1.
        name: what the first one is called beside its number.
    """

    rows: int
    first: int
    name: str | None = None

    def describe_first(self) -> str:
        """Return the number and the name of the first row."""
        return f"row {self.first:,}" + (f", {self.name}" if self.name else "")


class ModelRow(_Record):
    """A row as the model sees it, shortened.

    Attributes:
        prompt: its decoded tokens, special ones included; None: it is an image.
        target: what is to be predicted.
    """

    prompt: str | None = None
    target: str

    def describe(self) -> str:
        """Return both in one line."""
        return f"{'image' if self.prompt is None else self.prompt} -> {self.target}"


class Baseline(_Record):
    """What a trivial method reaches on the test split."""

    name: str
    accuracy: float


class DataCard(_Record):
    """The description of a prepared data set, which every later stage reads.

    Attributes:
        task: `data.task` of params.yaml.
        model: what the rows were encoded for.
        kind: the task kind, as in data.kind.
        task_name: name of the task that the rows are modelled as, see `pipeline.tasks.registry`.
        labels: class names in the order of their ids; empty where there are no classes.
        metric: the main metric.
        metrics: all metrics, the main one among them.
        selection_metric: the metric by which validation selects a checkpoint.
        max_length: most tokens of a row.
        splits: by name, train first.
        columns: field of a row -> the columns of the data set that it was made from; `row`: those
            that decide whether there is a row.
        ignored_columns: those that change nothing.
        first_row: of train.
        image_modes: pillow's names of the images' modes -> images of train.
        unused_message_fields: keys of chat messages that change nothing.
        notes: how the data were read, such as the separator of a file, where that is not obvious.
        dropped: `SPLIT: REASON` -> bad rows.
        sources: what the rows were made from.
        hub_dataset: id and commit of a data set of the hub.
        baseline: of a built-in task.
        positive_class: the class that F1 is of; None: F1 is the mean over the classes.
        class_weights: of each class in the loss, in the order of `labels`; empty: none.
        neutral_prompt: what decoders compare with when they choose; None: nothing.
        max_new_tokens: most tokens to generate; None: the task generates none.
        repeats_of_train: rows of validation and test whose texts are in train too.
    """

    task: str
    model: ModelOrigin
    kind: str
    task_name: str
    labels: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    selection_metric: str
    max_length: int
    splits: dict[str, SplitStatistics] = {}
    columns: dict[str, tuple[str, ...]] = {}
    ignored_columns: tuple[str, ...] = ()
    first_row: ModelRow | None = None
    image_modes: dict[str, int] | None = None
    unused_message_fields: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    dropped: dict[str, DroppedRows] = {}
    sources: Origins = {}
    hub_dataset: HubDataset | None = None
    baseline: Baseline | None = None
    positive_class: str | None = None
    class_weights: tuple[float, ...] = ()
    neutral_prompt: str | None = None
    max_new_tokens: int | None = None
    repeats_of_train: dict[str, int] = {}

    @classmethod
    def read(cls, data: Path, error: type[PipelineError] = DataError) -> DataCard:
        """Read the card of a prepared data set.

        Raises:
            error: it is missing or damaged.
        """
        path = data / _FILE
        raw = read_json(path, error)
        try:
            return cls.model_validate(raw)
        except ValidationError as cause:
            raise error(f"{path} {_explain(cause)}; run the stage prepare again") from cause

    def write(self, data: Path) -> None:
        """Write the card into a prepared data set, without entries that are None."""
        write_json(data / _FILE, self.to_json())

    def without_rows(self) -> DataCard:
        """Return the card without what it quotes of rows, for a result that is given away."""
        return self.model_copy(update={"first_row": None, "dropped": {}})

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def describe_metric(self, name: str) -> str:
        """Return a metric's name as it is shown; that of F1 says which class it is of."""
        return describe_metric(name, self.labels, self.positive_class)

    def describe_newer_commits(self) -> list[str]:
        """Return a line each if the hub has another model or other rows now than were prepared."""
        used: list[tuple[str, str, ModelOrigin | HubDataset]] = [
            ("model", self.model.name, self.model)
        ]
        if self.hub_dataset is not None:
            used.append(("dataset", self.hub_dataset.id, self.hub_dataset))
        lines = [
            describe_newer_commit(
                name,
                commit=origin.revision,
                revision=origin.requested_revision,
                repo_type=repo_type,
            )
            for repo_type, name, origin in used
        ]
        return [line for line in lines if line]

    def describe_repeats(self) -> list[str]:
        """Return a line that counts the rows that repeat train; no line if none does."""
        counts = [
            f"{count:,} of {quantify(self.splits[split].rows, 'row')} of {split}"
            for split, count in self.repeats_of_train.items()
            if count
        ]
        verb = inflect(sum(self.repeats_of_train.values()), "repeats", "repeat")
        return [f"{' and '.join(counts)} {verb} a row of train"] if counts else []


def _explain(cause: ValidationError) -> str:
    """Return what is wrong with a card: the missing keys, or else the first bad value."""
    errors = cause.errors()
    missing = [".".join(map(str, e["loc"])) for e in errors if e["type"] == "missing"]
    if missing:
        return f"lacks {', '.join(missing)}"
    key = ".".join(map(str, errors[0]["loc"]))
    return f"has a bad value of {key} ({errors[0]['msg']}), {errors[0]['input']!r}"


def read_rows(data: Path, split: str) -> Dataset:
    """Read the encoded rows of `train`, `validation` or `test`.

    Raises:
        DataError: they are missing or damaged.
    """
    try:
        return load_from_disk(str(data / split))
    except (OSError, ValueError, ArrowException) as error:
        reason = join_lines(error)
        raise DataError(
            f"{data / split} is damaged or missing ({reason}); run the stage prepare again"
        ) from error
