"""Seconds of the steps of several models that take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import torch
from peft import PeftModel

from lightpeft.profiling.decoding import make_decode_step, make_prefill_step
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.step_functions import Step, make_inference_step, make_training_step

STEPS = {
    "training": make_training_step,
    "inference": make_inference_step,
    "prefill": make_prefill_step,
    "decode": make_decode_step,
}


def time_interleaved(
    calls: Mapping[str, Step],
    *,
    warmup: int,
    rounds: int,
    wait: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time calls round by round: in each round each has its turn, and the order rotates.

    What disturbs the machine for a while then disturbs all of them, and the ratio of two
    within a round stays fair.

    Args:
        calls: what is timed, by name.
        warmup: rounds that are not counted.
        rounds: rounds that are.
        wait: returns when the device has finished; called before and after every call.

    Returns:
        Name -> seconds, one for each counted round.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wait()
            start = perf_counter()
            calls[name]()
            wait()
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
    return seconds


def measure(
    models: Mapping[str, PeftModel],
    settings: ProfilingSettings,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[int, dict[str, list[float]]]]:
    """Time all models, all of one kind and on one device.

    Returns:
        Phase of that kind (`random_batches.PHASES`) -> rows a batch -> model -> seconds of each
        round.
    """
    first = next(iter(models.values()))
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    for phase in list_phases(first):
        found[phase] = {}
        for rows in settings.batch_sizes:
            progress(f"{phase}, batches of {rows}")
            calls = {
                name: STEPS[phase](
                    model, make_random_batch(model, rows=rows, length=settings.length)
                )
                for name, model in models.items()
            }
            found[phase][rows] = time_interleaved(
                calls,
                warmup=settings.warmup,
                rounds=settings.rounds,
                wait=_synchronize_fn(first.device),
            )
    return found


def _synchronize_fn(device: torch.device) -> Callable[[], None]:
    """What returns when the device has done all it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None
