"""Compare models in parameters, time and memory, with ratios to the unpruned one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from peft import PeftModel
from transformers import PreTrainedModel

from lightpeft.core.benchmark_result import (
    BenchmarkResult,
    MethodResult,
    PeakMemory,
    Phase,
    Speedup,
    StepTiming,
    Variant,
    VariantResult,
)
from lightpeft.profiling.devices import read_device_name
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import BASELINE, compute_quartiles, compute_speedup
from lightpeft.profiling.timing import PhaseSeconds, time_phases
from lightpeft.profiling.variants import time_variants
from lightpeft.profiling.workload import Workload, compute_plan_cost

_PACKAGES = ("torch", "transformers", "peft")


def compare(
    model_factories: Mapping[str, Callable[[], PeftModel]],
    settings: ProfilingSettings,
    *,
    measure_memory: Callable[[str], PeakMemory] | None,
    progress: Callable[[str], None] = lambda text: None,
) -> BenchmarkResult:
    """Measure models that `prune` or `load` made, their adapters trainable, or others beside them.

    Args:
        model_factories: method -> function that makes its model on the device; `vanilla`, the
            baseline of all ratios, is among them.
        settings: batch sizes, tokens a row, rounds.
        measure_memory: measures the peak memory of one method; None to leave it out.
        progress: called with what is being measured.

    Returns:
        Timings and peak memory of each method, and their ratios to vanilla's. A speed-up comes
        with its quartiles and with what it would be if time were proportional to FLOPs
        (`flop_bound`); that of decoding also with what it would be if time were proportional to
        the bytes read (`byte_bound`): a step of few rows waits for memory, not for arithmetic.
    """
    memory: dict[str, PeakMemory] = {}
    if measure_memory:
        # Before the models that are timed: each has the device to itself.
        for method in model_factories:
            progress(f"memory of {method}")
            memory[method] = measure_memory(method)
    models = {method: make_model() for method, make_model in model_factories.items()}
    workloads = {method: Workload.from_model(model, settings) for method, model in models.items()}
    seconds = time_phases(models, settings, progress)
    first = next(iter(models.values()))
    dtype = str(first.dtype).removeprefix("torch.")
    methods = {
        method: _make_method_result(method, model, seconds, workloads, memory)
        for method, model in models.items()
    }
    variants = _measure_variants(models, workloads, settings, progress)
    return BenchmarkResult(
        device=read_device_name(first.device),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        dtype=dtype,
        length=settings.length,
        rounds=settings.rounds,
        training=settings.training.model_dump(),
        compile=settings.compile,
        methods={
            method: result.model_copy(update={"variants": variants[method]})
            for method, result in methods.items()
        },
    )


def _measure_variants(
    models: Mapping[str, PeftModel],
    workloads: Mapping[str, Workload],
    settings: ProfilingSettings,
    progress: Callable[[str], None],
) -> dict[str, dict[Variant, VariantResult]]:
    """Measure models compiled and merged, in place; return the variants of each method."""
    results: dict[str, dict[Variant, VariantResult]] = {method: {} for method in models}
    for variant, timed in time_variants(models, settings, progress).items():
        works = workloads
        if variant != "compiled":
            works = {
                method: Workload.from_model(model, settings, merged=workloads[method].plan)
                for method, model in timed.models.items()
            }
        for method in timed.models:
            timings, speedups = _make_timings(method, timed.seconds, works)
            results[method][variant] = VariantResult(
                timings=timings, speedups=speedups, compile=timed.compile.get(method)
            )
    return results


def _make_method_result(
    method: str,
    model: PeftModel,
    seconds: PhaseSeconds,
    workloads: Mapping[str, Workload],
    memory: Mapping[str, PeakMemory],
) -> MethodResult:
    workload, baseline = workloads[method], workloads[BASELINE]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total, base = _count_parameters(model, workload, trainable)
    timings, speedups = _make_timings(method, seconds, workloads)
    return MethodResult(
        base_parameters=base,
        trainable_parameters=trainable,
        total_parameters=total,
        timings=timings,
        speedups=speedups,
        memory=memory.get(method),
        memory_ratios={
            phase: _compute_memory_ratio(memory.get(method), memory.get(BASELINE), phase)
            for phase in seconds
        },
        decode_weight_bytes=workload.decode_weight_bytes,
        kv_cache_bytes=workload.kv_cache_bytes,
        kv_cache_ratios=workload.compute_kv_cache_ratios(baseline),
    )


def _make_timings(
    method: str, seconds: PhaseSeconds, workloads: Mapping[str, Workload]
) -> tuple[dict[Phase, dict[int, StepTiming]], dict[Phase, dict[int, Speedup]]]:
    """Return times, and speed-ups over vanilla, by phase and batch size."""
    workload, baseline = workloads[method], workloads[BASELINE]
    timings: dict[Phase, dict[int, StepTiming]] = {}
    speedups: dict[Phase, dict[int, Speedup]] = {}
    for phase, batches in seconds.items():
        timings[phase], speedups[phase] = {}, {}
        for batch_size, rounds in batches.items():
            tokens = batch_size * (1 if phase == "decode" else workload.length)
            timings[phase][batch_size] = _make_step_timing(rounds[method], tokens)
            speedups[phase][batch_size] = _compute_speedup(
                rounds[BASELINE],
                rounds[method],
                flop_bound=workload.compute_flop_bound(phase, baseline),
                byte_bound=workload.compute_byte_bound(batch_size, baseline)
                if phase == "decode"
                else None,
            )
    return timings, speedups


def _count_parameters(
    model: PeftModel | PreTrainedModel, workload: Workload, trainable: int
) -> tuple[int, int]:
    """Return all parameters, and those of the base model."""
    if workload.plan is None:
        # peft also keeps the untrained copy of a new head, which is not used.
        weights = (p for n, p in model.named_parameters() if "original_module" not in n)
        total = sum(weight.numel() for weight in weights)
        return total, total - trainable
    costs = compute_plan_cost(workload.plan, length=workload.length)
    total = costs.total.parameters
    return total, total - costs.parts["adapter"].parameters


def _make_step_timing(seconds: Sequence[float], tokens: int) -> StepTiming:
    q1, median, q3 = compute_quartiles(seconds)
    return StepTiming(median_s=median, q1_s=q1, q3_s=q3, tokens_per_s=tokens / median)


def _compute_speedup(
    baseline: Sequence[float],
    other: Sequence[float],
    *,
    flop_bound: float | None,
    byte_bound: float | None,
) -> Speedup:
    speedup = compute_speedup(baseline, other)
    return Speedup(
        **speedup._asdict(),
        flop_bound=flop_bound,
        byte_bound=byte_bound,
        fraction_of_flop_bound=None if flop_bound is None else speedup.median / flop_bound,
        fraction_of_byte_bound=None if byte_bound is None else speedup.median / byte_bound,
    )


def _compute_memory_ratio(
    memory: PeakMemory | None, baseline: PeakMemory | None, phase: Phase
) -> float | None:
    """Return the ratio of peaks, None where it would say nothing.

    What a process allocates and frees by itself outweighs a tiny model, whose peak may then be
    less than its weights.
    """
    if memory is None or baseline is None:
        return None
    if any(peak.phase_bytes[phase] < peak.model_bytes for peak in (memory, baseline)):
        return None
    return memory.phase_bytes[phase] / baseline.phase_bytes[phase]
