"""A model's outputs for rows that it did not train on, in batches of about one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset

from pipeline.common.console import device
from pipeline.common.errors import PipelineError
from pipeline.tasks.base import Batch, Task, Values
from pipeline.tasks.batching import build_dataloader, length_sorted_batches, token_counts


def run_model(
    task: Task, model: Any, rows: Dataset, processor: Any, *, batch_size: int
) -> Iterator[tuple[list[int], Batch, Any]]:
    """Run a model over rows, longest first; yield row numbers, their batch, and its outputs."""
    for numbers, batch in iter_batches(task, model, rows, processor, batch_size=batch_size):
        yield numbers, batch, model(**batch)


def iter_batches(
    task: Task, model: Any, rows: Dataset, processor: Any, *, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield row numbers and batches on the model's device, longest first, in inference mode."""
    order = length_sorted_batches(token_counts(rows), batch_size=batch_size)
    batches = build_dataloader(rows, task, processor, order)
    with inference_mode(model) as place:
        for numbers, batch in zip(order, batches, strict=True):
            yield numbers, send_to_device(batch, place)


@contextmanager
def inference_mode(model: Any) -> Iterator[torch.device]:
    """Put a model in evaluation mode, without gradients and in its dtype; yield its device."""
    place, dtype = device(), model.get_base_model().dtype
    model.to(place).eval()
    with torch.inference_mode(), torch.autocast(place.type, dtype, dtype != torch.float32):
        yield place


def restore_row_order(order: Sequence[int], values: Values) -> Values:
    """Return values that came in another order of the rows, sorted by row number."""
    restored = np.empty_like(values)
    restored[np.asarray(order)] = values
    return restored


def check_finite(outputs: Values, numbers: Sequence[int] | None = None) -> None:
    """Refuse outputs, one row each, that hold something that is not a number.

    `numbers` are the rows' own, where the outputs are of a part of them.

    Raises:
        PipelineError: names the row.
    """
    broken = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(broken):
        row = broken[0] if numbers is None else numbers[broken[0]]
        raise PipelineError(
            f"the model's output for row {row} is not a number; lower finetune.lr, "
            "or set model.dtype: float32"
        )
