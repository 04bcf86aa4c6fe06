"""A model's outputs for rows that it did not train on, in batches of about one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from peft import PeftModel

from pipeline.common.errors import PipelineError
from pipeline.tasks.base import Batch, Processor, Task, Values
from pipeline.tasks.batching import build_dataloader, count_tokens, sort_batches_by_length


def run_model(
    task: Task, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
) -> Iterator[tuple[list[int], Batch, Any]]:
    """Run a model over rows, longest first; yield row numbers, their batch, and its outputs."""
    for numbers, batch in iterate_batches(task, model, rows, processor, batch_size=batch_size):
        yield numbers, batch, model(**batch)


def iterate_batches(
    task: Task, model: PeftModel, rows: Dataset, processor: Processor, *, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield row numbers and batches on the model's device, longest first, in inference mode."""
    order = sort_batches_by_length(count_tokens(rows), batch_size=batch_size)
    batches = build_dataloader(rows, task, processor, order)
    with enter_inference_mode(model) as target:
        for numbers, batch in zip(task.track(order), batches, strict=True):
            yield numbers, send_to_device(batch, target)


@contextmanager
def enter_inference_mode(model: PeftModel) -> Iterator[torch.device]:
    """Put a model in evaluation mode, without gradients and in its dtype; yield its device."""
    target, dtype = model.device, model.dtype
    model.eval()
    with torch.inference_mode(), torch.autocast(target.type, dtype, dtype != torch.float32):
        yield target


def restore_row_order(order: Sequence[int], values: Values) -> Values:
    """Return values that came in another order of the rows, sorted by row number."""
    restored = np.empty_like(values)
    restored[np.asarray(order)] = values
    return restored


def check_finite(outputs: Values, numbers: Sequence[int] | None = None) -> None:
    """Check that no output of a row is infinite or NaN.

    `numbers` are the indices of the rows; without them, the rows are the first ones.

    Raises:
        PipelineError: names the row, counted from 1.
    """
    bad = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(bad):
        row = bad[0] if numbers is None else numbers[bad[0]]
        raise PipelineError(
            f"the model's output for row {row + 1:,} is not a number; lower finetune.lr, "
            "or set model.dtype: float32"
        )
