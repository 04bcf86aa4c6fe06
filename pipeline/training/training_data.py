"""What fine-tuning trains on: the rows of a task, and its batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader

from pipeline.common.params import FinetuneSection
from pipeline.tasks.base import Task
from pipeline.tasks.batching import (
    build_dataloader,
    choose_lengths,
    count_read_tokens,
    count_tokens,
    shuffle_batches,
)

Loader = DataLoader[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What to train on.

    Attributes:
        name: stage and method, for progress lines.
        task: with its data card.
        processor: the tokenizer or image processor.
        train: encoded rows.
        validation: encoded rows.
        estimation_steps: batches that the estimation has trained these weights on; they count
            towards `finetune.steps`.
    """

    name: str
    task: Task
    processor: Any
    train: Dataset
    validation: Dataset
    estimation_steps: int


def make_train_loader(
    data: TrainingData, settings: FinetuneSection, *, batches: int, seed: int
) -> Loader:
    """Return a loader of exactly `batches` full, shuffled batches."""
    order = shuffle_batches(
        count_tokens(data.train),
        batch_size=settings.batch_size,
        seed=seed + 1,
        grouped=settings.group_by_length,
    )
    rows = list(islice(order, batches))
    is_padded = settings.compile != "off" and not data.task.fixed_length
    return build_dataloader(
        data.train,
        data.task,
        data.processor,
        rows,
        split=True,
        lengths=choose_lengths(count_read_tokens(data.train, data.task), rows) if is_padded else (),
    )
