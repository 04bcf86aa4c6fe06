"""Stage `benchmark`: the fine-tuned models -> time and memory of all, side by side.

Batches are rows of `benchmark.length` random tokens without padding: speed does not depend on the
text. On a CPU, memory is measured in a process of its own for each method.
"""

from __future__ import annotations

from functools import partial

import torch
import transformers

from lightpeft.acceleration.accelerate import accelerate
from lightpeft.core.benchmark_result import PeakMemory
from lightpeft.core.names import PLAN
from lightpeft.core.plan import PruningPlan
from lightpeft.profiling.compare import compare
from lightpeft.profiling.memory import can_measure_memory, measure_peak_memory, run_in_subprocess
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import BASELINE, compute_estimation_cost
from pipeline.common.artefacts import EstimationTiming, Timing
from pipeline.common.console import find_device, log
from pipeline.common.data_card import DataCard
from pipeline.common.methods import has_plan
from pipeline.common.params import BenchmarkParams
from pipeline.common.paths import Paths
from pipeline.tasks.method_models import Model, load
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import make_task


def main(*, paths: Paths) -> None:
    """Measure all methods, and what the estimation phase cost."""
    transformers.logging.set_verbosity_error()
    params, target = BenchmarkParams.load(paths.params), find_device()
    # DVC hashes this stage's dependencies when it has ended: a method that was taken off `methods`
    # leaves no trace.
    paths.remove_other_methods(params.methods)

    def measure_memory(method: str) -> PeakMemory:
        measure = partial(_measure_memory, paths, method, target)
        return measure() if target.type == "cuda" else run_in_subprocess(measure)

    result = compare(
        {method: partial(load_trained_model, paths, method, target) for method in params.methods},
        ProfilingSettings(**params.benchmark.model_dump()),
        measure_memory=measure_memory if can_measure_memory(target) else None,
        progress=partial(log, "benchmark"),
    )
    finetune: dict[str, Timing] = {
        method: Timing.read(paths.locate_timing(method))
        for method in params.methods
        if method == BASELINE or _follows_estimation(paths, method)
    }
    estimation = compute_estimation_cost(EstimationTiming.read(paths.estimate_timing), finetune)
    result.model_copy(update={"estimation": estimation}).save(paths.benchmark)
    for method, measured in result.methods.items():
        for batch_size, speedup in measured.speedups["training"].items():
            text = f"{method}: training {speedup.median:.2f}x with batches of {batch_size}"
            log("benchmark", text)


def _follows_estimation(paths: Paths, method: str) -> bool:
    path = paths.locate_model(method) / PLAN
    return has_plan(method) and PruningPlan.load(path).follows_estimation


def load_trained_model(paths: Paths, method: str, target: torch.device) -> Model:
    """Load what fine-tuning saved, what it trained trainable, accelerated as it was there."""
    params = BenchmarkParams.load(paths.params)
    base, _ = load_model(params.model, make_task(DataCard.read(paths.prepared)), params.seed)
    model = load(base, paths.locate_model(method)).to(target)
    if params.finetune.accelerate:
        accelerate(model)
    return model


def _measure_memory(paths: Paths, method: str, target: torch.device) -> PeakMemory:
    transformers.logging.set_verbosity_error()  # a fresh process starts with the default verbosity
    settings = ProfilingSettings(**BenchmarkParams.load(paths.params).benchmark.model_dump())
    make_model = partial(load_trained_model, paths, method, target)
    return measure_peak_memory(make_model, settings, device=target)
