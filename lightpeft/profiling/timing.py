"""Time the steps of several models in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import torch
from peft import PeftModel

from lightpeft.core.benchmark_result import Phase
from lightpeft.profiling.decoding import make_decode_step, make_prefill_step
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.step_functions import Step, make_inference_step, make_training_step

# Phase -> batch size -> model -> seconds of each round.
PhaseSeconds = dict[Phase, dict[int, dict[str, list[float]]]]

_KEPT_BUFFER = 2**25 - 2**13  # bytes, just below the 32 MiB to which glibc's threshold rises

STEP_FACTORIES: dict[Phase, Callable[[PeftModel, dict[str, torch.Tensor]], Step]] = {
    "inference": make_inference_step,
    "prefill": make_prefill_step,
    "decode": make_decode_step,
}


def make_step(
    phase: Phase, model: PeftModel, *, batch_size: int, settings: ProfilingSettings
) -> Step:
    """Return the step of a phase, on a random batch."""
    batch = make_random_batch(model, batch_size=batch_size, length=settings.length)
    if phase == "training":
        return make_training_step(model, batch, settings.training)
    return STEP_FACTORIES[phase](model, batch)


def time_interleaved(
    steps: Mapping[str, Step],
    *,
    warmup: int,
    rounds: int,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time steps round by round: every round runs each step once, in an order that rotates.

    What disturbs the machine for a while then disturbs all of them, and the ratio of two
    within a round stays fair. On a CPU no step waits for memory that the one before gave back to
    the system, as hardly any step of a training does.

    Args:
        steps: name -> the call to time.
        warmup: rounds that are not counted.
        rounds: rounds that are.
        synchronize: returns when the device has finished; called before and after every step.

    Returns:
        Name -> seconds of each counted round.
    """
    _keep_freed_memory()
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(warmup + rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            synchronize()
            start = perf_counter()
            steps[name]()
            synchronize()
            if index >= warmup:
                seconds[name].append(perf_counter() - start)
    return seconds


def _keep_freed_memory() -> None:
    """Let the C library's allocator keep up to 64 MiB of freed memory.

    glibc keeps twice the size of the largest buffer that was ever freed, if that has less than 32
    MiB, and gives the rest back to the system, from which the next step gets it page by page.
    Without this, a step of an unpruned model was up to a tenth slower, in some processes only.
    """
    torch.empty(_KEPT_BUFFER, dtype=torch.uint8, device="cpu")


def time_phases(
    models: Mapping[str, PeftModel],
    settings: ProfilingSettings,
    progress: Callable[[str], None] = lambda text: None,
) -> PhaseSeconds:
    """Time all phases of models that are of one kind and on one device.

    Args:
        models: name -> model.
        settings: batch sizes, tokens a row, rounds.
        progress: called with what is being timed.
    """
    first = next(iter(models.values()))
    seconds: PhaseSeconds = {}
    for phase in list_phases(first):
        seconds[phase] = {}
        for batch_size in settings.batch_sizes:
            progress(f"{phase}, batches of {batch_size}")
            steps = {
                name: make_step(phase, model, batch_size=batch_size, settings=settings)
                for name, model in models.items()
            }
            seconds[phase][batch_size] = time_steps(steps, settings, first.device)
    return seconds


def time_steps(
    steps: Mapping[str, Step], settings: ProfilingSettings, device: torch.device
) -> dict[str, list[float]]:
    """Time steps on a device in turns; return name -> seconds of each round."""
    return time_interleaved(
        steps,
        warmup=settings.warmup,
        rounds=settings.rounds,
        synchronize=synchronize_fn(device),
    )


def synchronize_fn(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until the device has finished; on a CPU it does nothing."""
    if device.type == "cpu":
        return lambda: None
    return partial(torch.accelerator.synchronize, device)
