"""Sums and means over the processes of torch.distributed; one process alone computes as ever."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def count_processes() -> int:
    """Return the number of processes of torch.distributed; 1 if it is not initialized."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of the values of all processes, the same bytes in each."""
    if count_processes() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def average_over_processes(values: Tensor) -> Tensor:
    """Return the mean of the values of all processes, the same bytes in each."""
    return sum_over_processes(values) / count_processes() if count_processes() > 1 else values


@torch.no_grad()
def share_weights(weights: Iterable[nn.Parameter]) -> None:
    """Give each process the weights of the first one."""
    if count_processes() > 1:
        for weight in weights:
            dist.broadcast(weight.data, src=0)


@torch.no_grad()
def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, with a single transfer.

    A weight that the batch of no process used keeps the gradient None, as in one process. Float32
    weights on any devices; the flat copy takes as much memory as the gradients.
    """
    weights = list(weights)
    if count_processes() == 1 or not weights:
        return
    device = weights[0].device
    rows = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    used = torch.tensor([float(w.grad is not None) for w in weights])
    flat = [*(row.flatten().to(device) for row in rows), used.to(device)]
    means = average_over_processes(torch.cat(flat))
    # Only if this batch left a weight out, wait for a transfer to the CPU.
    is_used = [True] * len(weights) if used.all() else (means[-len(weights) :] > 0).tolist()
    start = 0
    for weight, row, is_trained in zip(weights, rows, is_used, strict=True):
        if is_trained:
            weight.grad = row.copy_(means[start : start + row.numel()].view_as(row))
        start += row.numel()
