"""Models side by side: parameters, seconds, bytes, and ratios against vanilla."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lightpeft.planning.cost import CostTable
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import BASELINE, compute_speedup, quartiles
from lightpeft.profiling.timing import measure
from lightpeft.profiling.workload import Workload, compute_plan_cost

Seconds = Mapping[int, Mapping[str, list[float]]]


def compare(
    builds: Mapping[str, Callable[[], PeftModel]],
    settings: ProfilingSettings,
    *,
    memory: Callable[[str], dict[str, Any]] | None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure models that `prune` or `load` made, their adapters trainable.

    Args:
        builds: method -> what makes its model on the device; ratios are against `vanilla`.
        settings: of the measurement.
        memory: measures one method's memory; None to leave it out.
        progress: called with what is being measured.

    Returns:
        JSON values: device, versions, `methods` with their seconds and bytes, `ratios`. A
        speed-up comes with its quartiles and with what it would be if time were FLOPs
        (`flop_bound`); decoding's also with what it would be if time were bytes read
        (`byte_bound`): a step of few rows waits for memory, not for arithmetic.
    """
    used: dict[str, dict[str, Any] | None] = dict.fromkeys(builds)
    if memory:
        # Before the models that are timed: each has the device to itself.
        for method in builds:
            progress(f"memory of {method}")
            used[method] = memory(method)
    models = {method: make() for method, make in builds.items()}
    works = {name: Workload.from_model(model, settings) for name, model in models.items()}
    seconds = measure(models, settings, progress)
    methods: dict[str, dict[str, Any]] = {}
    ratios: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        mine, baseline = works[name], works[BASELINE]
        methods[name] = _parameters(model, compute_plan_cost(mine.plan, length=settings.length))
        methods[name] |= mine.as_dict() | {"memory": used[name]}
        ratios[name] = mine.cache_ratios(baseline)
        for phase, times in seconds.items():
            tokens = 1 if phase == "decode" else settings.length
            methods[name][phase] = _timings(times, name, tokens)
            ratios[name][f"{phase}_speedup"] = _speedups(
                times, name, partial(mine.bounds, phase, baseline)
            )
            ratios[name][f"{phase}_memory"] = _memory_ratio(used, name, phase)
    first = next(iter(models.values()))
    return {
        **environment(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "length": settings.length,
        "rounds": settings.rounds,
        "methods": methods,
        "ratios": ratios,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What a measurement depends on: the device and the versions."""
    processor = f"{_processor()}, {torch.get_num_threads()} threads"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }


def _parameters(model: PeftModel, costs: CostTable) -> dict[str, Any]:
    total = costs.total.parameters
    return {
        "base_parameters": total - costs.parts["adapter"].parameters,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total_parameters": total,
    }


def _timings(seconds: Seconds, method: str, tokens: int) -> dict[str, dict[str, float]]:
    found = {}
    for rows, times in seconds.items():
        row = {f"{name}_s": value for name, value in quartiles(times[method]).items()}
        found[str(rows)] = row | {"tokens_per_s": rows * tokens / row["median_s"]}
    return found


def _speedups(
    seconds: Seconds, method: str, bounds: Callable[[int], dict[str, float]]
) -> dict[str, dict[str, float]]:
    found = {}
    for rows, times in seconds.items():
        gain, bound = compute_speedup(times[BASELINE], times[method]), bounds(rows)
        shares = {
            f"of_{name.removeprefix('flop_')}": gain["median"] / x for name, x in bound.items()
        }
        found[str(rows)] = gain | bound | shares
    return found


def _memory_ratio(
    used: Mapping[str, dict[str, Any] | None], method: str, phase: str
) -> float | None:
    mine, baseline = used[method], used[BASELINE]
    if mine is None or baseline is None:
        return None
    # A tiny model is lost in what a process takes and gives back by itself.
    if any(found[f"{phase}_bytes"] < found["model_bytes"] for found in (mine, baseline)):
        return None
    return float(mine[f"{phase}_bytes"] / baseline[f"{phase}_bytes"])


def _processor() -> str:
    """The processor's name, where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
