"""Time the operators of a training step of each fine-tuned model: where pruning saves time.

    dvc repro
    python -m experiments.step_profile --top 8

Reads what the stage `finetune` wrote, as the stage `benchmark` does. Self time of torch's operators
on the CPU, with batches of `benchmark.batch_sizes`' largest and `benchmark.length` tokens.
The profiler adds its own time to each call, so whole steps are timed without it, in turns.
"""

from __future__ import annotations

import statistics
from typing import Annotated

import torch
import typer
from torch.profiler import ProfilerActivity, profile

from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.step_functions import Step
from lightpeft.profiling.timing import make_step, time_interleaved
from pipeline.common.params import BenchmarkParams
from pipeline.common.paths import Paths
from pipeline.stages.benchmark import load_trained_model

_PROFILED = 10  # steps


def main(
    top: Annotated[int, typer.Option(min=1, help="operators of the first method to list")] = 8,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
) -> None:
    """Print a Markdown table: milliseconds of each operator in a step, by method."""
    paths = Paths()
    params = BenchmarkParams.load(paths.params)
    settings = ProfilingSettings(**params.benchmark.model_dump())
    size, device = max(settings.batch_sizes), torch.device("cpu")
    steps = {
        method: make_step(
            "training",
            load_trained_model(paths, method, device),
            batch_size=size,
            settings=settings,
        )
        for method in params.methods
    }
    seconds = time_interleaved(steps, warmup=settings.warmup, rounds=rounds)
    whole = {method: 1000 * statistics.median(times) for method, times in seconds.items()}
    operators = {method: _profile(step) for method, step in steps.items()}
    print("| operator |", " | ".join(f"{method}, ms" for method in steps), "|")
    print("|---|" + "---:|" * len(steps))
    print("| whole step |", " | ".join(f"{value:.0f}" for value in whole.values()), "|")
    first = next(iter(operators.values()))
    for name in sorted(first, key=lambda name: -first[name])[:top]:
        cells = " | ".join(f"{times.get(name, 0.0):.2f}" for times in operators.values())
        print(f"| `{name.removeprefix('aten::')}` | {cells} |")


def _profile(step: Step) -> dict[str, float]:
    """Return the milliseconds that each operator takes in a step, without those that it calls.

    The least of several steps, each profiled on its own: what the profiler allocates makes some of
    them get the memory of their tensors from the system, page by page.
    """
    steps = []
    for _ in range(_PROFILED):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step()
        averages = profiler.key_averages()
        steps.append({event.key: event.self_cpu_time_total / 1000 for event in averages})
    return {name: min(times.get(name, 0.0) for times in steps) for name in steps[0]}


if __name__ == "__main__":
    typer.run(main)
