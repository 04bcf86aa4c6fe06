"""The loss of a batch that several processes share, each with a part of its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from pipeline.common.processes import sum_over_processes
from pipeline.common.ranks import count_processes
from pipeline.tasks.base import IGNORED, Task


def make_loss(task: Task) -> Callable[[Any, Mapping[str, Any]], Tensor]:
    """Return the task's loss as a function of a model's output and its batch.

    Of several processes, the mean of what each gets for its rows is the loss of the whole batch: a
    process whose rows have more tokens to predict has more weight.
    """
    if task.loss_tokens is None or count_processes() == 1:
        return task.compute_loss
    return partial(_weight_by_tokens, task, task.loss_tokens)


def _weight_by_tokens(task: Task, tokens: slice, output: Any, batch: Mapping[str, Any]) -> Tensor:
    count = int((batch["labels"][:, tokens] != IGNORED).sum())
    total = sum_over_processes(count, output.logits.device)
    if not count:  # the mean of nothing is NaN
        nothing: Tensor = output.logits.sum() * 0
        return nothing
    return task.compute_loss(output, batch) * (count * count_processes() / total)
