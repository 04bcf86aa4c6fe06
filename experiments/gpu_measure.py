"""Measure the groups of a job of experiments.gpu, in a process of its own."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch._dynamo.utils import counters

from experiments.gpu_groups import Group, Job
from experiments.gpu_models import accelerate_copy, build_models
from lightpeft.acceleration.compile import CompileCounts, compiling, counting
from lightpeft.benchmark.run import choose_device
from lightpeft.core.errors import LightPeftError
from lightpeft.core.library_warnings import ignore_peft_deprecation
from lightpeft.core.plan import PruningPlan
from lightpeft.profiling.decoding import supports_logits_to_keep
from lightpeft.profiling.devices import read_device_name
from lightpeft.profiling.kernel_counts import count_kernels, time_host
from lightpeft.profiling.merged import merge_in_place
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import compute_quartiles, compute_speedup
from lightpeft.profiling.step_functions import Step
from lightpeft.profiling.timing import make_step, synchronize_fn, time_steps
from lightpeft.profiling.variants import CALLS_THAT_COMPILE, begin_cuda_graphs, make_deployed_step
from lightpeft.profiling.workload import Workload
from lightpeft.pruning.prune import get_plan

Row = dict[str, Any]
Send = Callable[[str, list[Row]], None]  # group, and rows of its methods, or more of the same rows


def run_job(job: Job, device_name: str, rounds: int, connection: Connection) -> None:
    """Measure the groups of a job; send the name of the device, rows as they come, and the end."""
    ignore_peft_deprecation()
    try:
        device = choose_device(device_name)
    except LightPeftError as error:
        connection.send(("error", str(error)))
        return
    connection.send(("device", read_device_name(device)))
    if job:
        measure_job(job, device, rounds, lambda key, rows: connection.send((key, rows)))
    connection.send(("end", None))


def measure_job(job: Job, device: torch.device, rounds: int, send: Send) -> None:
    """Measure the groups of a job, and send the rows of each as soon as it is timed.

    A group that fails sends a row with the reason. After an error that leaves CUDA unusable, the
    process ends, so that the other groups can be measured in a new one.

    Kernels and memory are counted when everything is timed: after torch's profiler has run, the
    host needs longer for every launch (github.com/pytorch/pytorch/issues/144455).
    """
    models, timed = JobModels(job, device), []
    for group in job:
        try:
            _time_group(group, models, rounds, send)
            timed.append(group)
        except Exception as error:  # libraries and drivers raise any
            send(group.key, [_describe_error(error)])
        _free_memory(device)
    for group in timed:
        if group.scope == "off":  # others are counted while they are compiled
            try:
                send(group.key, _inspect_steps(models.make_steps(group), models.get(group), device))
            except Exception as error:
                send(group.key, [_describe_error(error)])
            _free_memory(device)


class JobModels:
    """The models of a job, each made when a group needs it, and kept for the others."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.device, self._is_compiled = device, job[0].scope != "off"
        self._has_training = any(group.is_training for group in job)
        self._adapted: dict[str, Any] = {}
        self._accelerated: dict[str, Any] = {}
        self._merged: dict[str, Any] = {}
        self.plans: dict[str, PruningPlan] = {}

    def get(self, group: Group) -> dict[str, Any]:
        """Return the models that a group compares; the first is the baseline."""
        in_full = self._has_training and not self._is_compiled
        if not self.plans:
            self._adapted = build_models(
                group.case, group.fractions, self.device, with_query_value=in_full
            )
            self.plans = {name: get_plan(model) for name, model in self._adapted.items()}
        if group.is_merged:
            self._merged = self._merged or self._merge()
            return self._merged
        pair = {name: self._adapted[name] for name in ("LoRA", "light")}
        if not group.is_training:
            return pair
        self._accelerated = self._accelerated or {
            f"{name} + accelerate": accelerate_copy(model) for name, model in pair.items()
        }
        return self._adapted | self._accelerated if in_full else self._accelerated

    def _merge(self) -> dict[str, Any]:
        """Merge adapters; in copies, if other groups may need the adapted models."""
        copied = (lambda model: model) if self._is_compiled else _copy_model
        return {name: merge_in_place(copied(self._adapted[name])) for name in ("LoRA", "light")}

    def make_steps(self, group: Group) -> dict[str, Step]:
        """Return a step of each method, whose model is in the mode of the phase from now on."""
        return {name: _make_step(group, model) for name, model in self.get(group).items()}

    def count_flops(self, group: Group) -> dict[str, int]:
        """Return the FLOPs of a step of each method."""
        tokens = group.case.rows * (1 if group.phase == "decode" else group.case.tokens)
        return {
            name: tokens * _count_flops(group, model, self.plans[name.partition(" + ")[0]])
            for name, model in self.get(group).items()
        }


def _time_group(group: Group, models: JobModels, rounds: int, send: Send) -> None:
    """Send the rows of a group: times, and ratios to the first method.

    Raises:
        LightPeftError: torch.compile failed.
    """
    device, flops = models.device, models.count_flops(group)
    with ExitStack() as stack:
        counts = {
            name: stack.enter_context(
                compiling(model, group.scope, dynamic=False, cuda_graphs=not group.is_training)
            )
            for name, model in models.get(group).items()
        }
        steps = models.make_steps(group)
        compilation = {name: _compile(steps[name], counts[name]) for name in steps}
        seconds = time_steps(steps, _make_settings(group, rounds), device)
        first = next(iter(steps))
        send(
            group.key,
            [
                _make_row(name, seconds[name], seconds[first], flops[name], flops[first])
                | {"host_ms": round(1e3 * time_host(step, device), 3), "baseline": first}
                | compilation[name]
                for name, step in steps.items()
            ],
        )
        if group.scope != "off":
            kernels = {name: count_kernels(step, device) for name, step in steps.items()}
            send(group.key, [{"method": name, "kernels": n} for name, n in kernels.items()])


def _make_settings(group: Group, rounds: int = 3) -> ProfilingSettings:
    case = group.case
    return ProfilingSettings(batch_sizes=[case.rows], length=case.tokens, rounds=rounds)


def _make_step(group: Group, model: Any) -> Step:
    case, settings = group.case, _make_settings(group)
    if not group.is_merged:
        return make_step(group.phase, model, batch_size=case.rows, settings=settings)
    batch = make_random_batch(model, batch_size=case.rows, length=case.tokens)
    step = make_deployed_step(group.phase, model, batch)
    return step if group.scope == "off" else begin_cuda_graphs(step)


def _count_flops(group: Group, model: Any, plan: PruningPlan) -> int:
    """Return the FLOPs of a phase, per token."""
    if group.phase == "decode":
        merged = plan if group.is_merged else None
        workload = Workload.from_model(model, _make_settings(group), merged=merged)
    else:
        workload = Workload(
            plan=plan,
            length=group.case.tokens,
            last_logits_only=supports_logits_to_keep(model),
            decode_traffic={},
            merged=group.is_merged,
        )
    flops = workload.count_flops(group.phase)
    assert flops is not None  # all models have plans
    return flops


def _compile(step: Step, counts: CompileCounts) -> Row:
    """Call a step until it is compiled; return what that took, nothing if nothing is compiled."""
    if counts.scope == "off":
        return {}
    skips = counters["inductor"]["cudagraph_skips"]
    with counting(counts):
        for _ in range(CALLS_THAT_COMPILE):
            step()
    skipped = counters["inductor"]["cudagraph_skips"] - skips
    return {"compilation": counts.describe(), "graphs_without_cuda_graph": skipped}


def _inspect_steps(
    steps: Mapping[str, Step], models: Mapping[str, Any], device: torch.device
) -> list[Row]:
    """Return kernels and, on CUDA, peak memory of a step of each method."""
    rows = []
    for name, step in steps.items():
        step()  # makes the moments of the optimizer
        memory = _measure_peak(step, models[name], device)
        rows.append({"method": name, "kernels": count_kernels(step, device)} | memory)
    return rows


def _measure_peak(step: Step, model: Any, device: torch.device) -> Row:
    """Return the peak memory of a model alone: its weights, its AdamW, and what a step allocates.

    Other models are in memory at the same time. A KV cache that the step reads is left out.
    """
    if device.type != "cuda":
        return {}
    synchronize = synchronize_fn(device)
    synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    synchronize()
    allocated = torch.cuda.max_memory_allocated(device) - before
    weights = [*model.parameters(), *model.buffers()]
    moments = [weight for weight in model.parameters() if weight.requires_grad and model.training]
    own = sum(weight.nbytes for weight in weights) + 2 * sum(weight.nbytes for weight in moments)
    return {"memory_gb": round((own + allocated) / 1e9, 3)}


def _make_row(
    method: str, seconds: list[float], baseline: list[float], flops: int, baseline_flops: int
) -> Row:
    quartiles, speedup = compute_quartiles(seconds), compute_speedup(baseline, seconds).median
    bound = baseline_flops / flops
    return {
        "method": method,
        "ms": round(1e3 * quartiles.median, 3),
        "quartiles_ms": [round(1e3 * value, 3) for value in (quartiles.q1, quartiles.q3)],
        "speedup": round(speedup, 3),
        "flop_bound": round(bound, 3),
        "share_of_bound": round(speedup / bound, 3),
        "tflops": round(flops / quartiles.median / 1e12, 4),
    }


def _describe_error(error: Exception) -> Row:
    return {"method": "-", "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def _copy_model(model: Any) -> Any:
    """Copy a model with its weights, but not its plan."""
    plan = get_plan(model)
    return copy.deepcopy(model, {id(plan): plan})


def _free_memory(device: torch.device) -> None:
    """Free what a group left.

    Raises:
        RuntimeError: an error of a kernel has left CUDA unusable in this process.
    """
    gc.collect()
    synchronize_fn(device)()
    if device.type == "cuda":
        torch.cuda.empty_cache()
