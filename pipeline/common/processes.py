"""The processes that run one stage together, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from pipeline.common.console import find_device
from pipeline.common.errors import ConfigError
from pipeline.common.ranks import count_processes, get_local_rank, is_main_process

# The others wait while the main process validates. If one ends, torchrun ends them all.
_TIMEOUT = timedelta(days=7)
_Value = TypeVar("_Value")


@contextmanager
def join_processes() -> Iterator[None]:
    """Let the processes of a stage communicate: by NCCL if each has a GPU, else by gloo.

    Raises:
        ConfigError: this machine has fewer GPUs than processes, or GPUs of another kind.
    """
    if count_processes() == 1:
        yield
        return
    gpus, number = torch.cuda.device_count(), get_local_rank()
    if (kind := find_device().type) not in ("cpu", "cuda"):
        raise ConfigError(
            f"several processes need GPUs with CUDA, or none; this machine has {kind}"
        )
    if 0 < gpus <= number:
        raise ConfigError(f"{number + 1} processes need as many GPUs, this machine has {gpus}")
    if gpus:
        torch.cuda.set_device(number)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=_TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it may wait for processes that wait for this


def wait_for_others() -> None:
    """Wait until each process is here."""
    if count_processes() > 1:
        dist.barrier()


def compute_once(compute: Callable[[], _Value]) -> _Value:
    """Return in each process what the main process computes; it is pickled."""
    if count_processes() == 1:
        return compute()
    values = [compute() if is_main_process() else None]
    dist.broadcast_object_list(values)
    value: _Value = values[0]  # type: ignore[assignment]
    return value


def sum_over_processes(number: float, device: torch.device) -> float:
    """Return the sum of the numbers that all processes have."""
    total = torch.tensor(float(number), dtype=torch.float64, device=device)
    if count_processes() > 1:
        dist.all_reduce(total)
    return float(total)
