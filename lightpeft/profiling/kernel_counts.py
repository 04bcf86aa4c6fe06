"""Count the kernels of a step, and the time that the host takes to launch them."""

from __future__ import annotations

import statistics
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from lightpeft.profiling.step_functions import Step
from lightpeft.profiling.timing import synchronize_fn

_CALLS = 3


def count_kernels(step: Step, device: torch.device) -> int:
    """Return how many kernels and copies a step runs on a GPU; on a CPU, how many operators.

    Also of a compiled step, whose kernels are no operators of torch. Operators on a CPU are those
    that call no other operator, views included.

    On CUDA, every later launch of a kernel in the process may take longer, so measure times before:
    torch leaves NVIDIA's profiling library attached.

    Args:
        step: that ran before: a first step also makes the optimizer's state, or a graph.
        device: of the model.
    """
    on_gpu = device.type == "cuda"
    # Not both: torch would take seconds to relate the kernels to the operators.
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        step()
        synchronize_fn(device)()
    events = profiler.events() or ()
    if on_gpu:
        return sum(
            event.device_type.name == "CUDA" and not event.is_user_annotation for event in events
        )
    return sum(event.name.startswith("aten::") and not event.cpu_children for event in events)


def time_host(step: Step, device: torch.device) -> float:
    """Return the median seconds until a step returns, its kernels launched but not finished."""
    synchronize, seconds = synchronize_fn(device), []
    for _ in range(_CALLS):
        synchronize()
        start = perf_counter()
        step()
        seconds.append(perf_counter() - start)
    synchronize()
    return statistics.median(seconds)
