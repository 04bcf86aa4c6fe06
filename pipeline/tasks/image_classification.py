"""Image classification. Files are decoded when a batch is made, and stored as they are before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, Value
from transformers import AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig

from pipeline.common.errors import ConfigError, DataError
from pipeline.common.params import DataSection
from pipeline.tasks import labels
from pipeline.tasks import text_classification as classify
from pipeline.tasks.base import Batch, Columns, Processor
from pipeline.tasks.pixels import inspect, read_pixels
from pipeline.tasks.schema import (
    CLASS_METRICS,
    InputColumns,
    Row,
    RowSchema,
    Template,
    name_texts,
    require_column,
)

_IMAGES = 500  # in memory at a time


def build_template(section: DataSection, first: Sequence[Row]) -> Template:
    """Build a template for the columns image and label, or those that params.yaml names.

    An image is a path, bytes, or both as `datasets` has them. A path is relative to the
    folder that the pipeline runs in, and only the path is stored.

    Raises:
        ConfigError: data.text names two columns.
        DataError: there is no such column.
    """
    names = [section.text] if isinstance(section.text, str) else section.text or ["image"]
    if len(names) != 1:
        raise ConfigError(f"data.text must be the column of the images, got {names}")
    image = require_column(names[0], first, "data.text")
    label = require_column(section.label or "label", first, "data.label")

    return lambda row: {"image": row.get(image), "label": row.get(label)}


def inspect_image(row: Row) -> Row:
    """Return the row with its image as it is stored, its label as text, and what `inspect` says."""
    image = encode_image(row["image"])
    inspected = inspect(image) if image else {}
    return {"image": image, "label": labels.convert_to_class(row["label"])} | inspected


def encode_image(image: Any) -> dict[str, Any] | None:
    """Return an image as {bytes, path}, one of which may be None; None if both are."""
    if isinstance(image, bytes | str | Path):
        image = {"bytes" if isinstance(image, bytes) else "path": image}
    if not isinstance(image, dict) or not (image.get("bytes") or image.get("path")):
        return None
    path = image.get("path")
    return {"bytes": image.get("bytes"), "path": None if path is None else str(path)}


def find_error(row: Row) -> str | None:
    """Return why a row is bad: label or image are missing, or the image can't be read."""
    if row["label"] is None or row["image"] is None:
        return "no label" if row["label"] is None else "no image"
    error: str | None = row["error"]
    return error


def get_path(row: Row) -> str | None:
    """Return the path of a row's image, if it has one."""
    path: str | None = row["image"] and row["image"]["path"]
    return path


def find_classes(splits: dict[str, Dataset], known: list[str] | None) -> list[str]:
    """Return the classes of train.

    Raises:
        DataError: the labels are decimals, or make no classes.
    """
    names = classify.find_classes(splits, known)
    if not names:
        raise DataError("data.label: labels of images must be classes, train has decimals")
    return names


SCHEMA = RowSchema(
    kind="image-classification",
    features=Features(
        {
            "image": {"bytes": Value("large_binary"), "path": Value("string")},
            "label": Value("string"),
            "digest": Value("string"),
            "mode": Value("string"),  # pillow's name of how its pixels are stored
        }
    ),
    metrics=CLASS_METRICS,
    build_template=build_template,
    postprocess=inspect_image,
    find_error=find_error,
    find_classes=find_classes,
    label_column="label",
    matches_columns=lambda names: "image" in names,
    inputs=InputColumns(
        required=(("image",),),
        add_target=lambda row, classes: row | {"label": classes[0]},
        read_texts=name_texts("image"),
    ),
    identity_columns=("digest",),
    row_name=get_path,
    chunk_size=_IMAGES,
)


def count_image_tokens(config: PretrainedConfig) -> int:
    """Return how many tokens a model makes of an image: its patches and one more.

    Raises:
        ConfigError: it reads no images in RGB, or not in square patches.
    """
    if (channels := getattr(config, "num_channels", 3)) != 3:
        raise ConfigError(f"model.name reads images of {channels} channels; RGB has 3")
    side, patch = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if not isinstance(side, int) or not isinstance(patch, int):
        raise ConfigError(f"model type {config.model_type!r} reads no images in square patches")
    return (side // patch) ** 2 + 1


class ImageClassification(classify.TextClassification):
    """Predict a class for each image."""

    schema = SCHEMA
    name = "image-classification"
    model_class = AutoModelForImageClassification
    processor_class = AutoImageProcessor
    # The same pixels whether torchvision is installed or not.
    processor_options: ClassVar[dict[str, Any]] = {"backend": "pil"}
    task_type = None
    fixed_length = True
    inputs = ("image", "label")
    token_columns = ()

    @classmethod
    def supports(cls, classes: Sequence[str], config: PretrainedConfig) -> bool:
        return True

    @classmethod
    def find_max_length(cls, requested: int, config: PretrainedConfig) -> int:
        return count_image_tokens(config)

    def encode(self, rows: Columns, processor: Processor) -> Columns:
        """Convert the label to its id; the image stays as it is."""
        count = len(rows["label"])
        return {
            "label": labels.encode(rows["label"], classes=self.card.labels, split="this split"),
            "length": [self.card.max_length] * count,
            "num_truncated": [0] * count,
        }

    def compute_train_statistics(self, train: Dataset, processor: Processor) -> dict[str, Any]:
        """Return how many images have which mode, the most frequent first."""
        counts = pc.value_counts(train.data.column("mode")).to_pylist()
        counts.sort(key=lambda count: -count["counts"])
        modes = {count["values"]: count["counts"] for count in counts}
        return super().compute_train_statistics(train, processor) | {"image_modes": modes}

    def list_shown_tokens(self, row: Row) -> list[int]:
        """Return none: an image is read as pixels."""
        return []

    def make_collator(self, processor: Processor) -> Callable[[list[Row]], Batch]:
        def collate(rows: list[Row]) -> Batch:
            images = processor([read_pixels(row["image"]) for row in rows], return_tensors="pt")
            class_ids = torch.tensor([row["label"] for row in rows])
            return {"pixel_values": images["pixel_values"], "labels": class_ids}

        return collate
