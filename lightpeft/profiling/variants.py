"""Time models in other forms than eagerly and with adapters: compiled, and as they are deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.acceleration.compile import compiling, counting
from lightpeft.core.benchmark_result import CompileCost, CompileScope, Phase, Variant
from lightpeft.profiling.merged import merge_in_place
from lightpeft.profiling.random_batches import list_phases, make_random_batch
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import BASELINE
from lightpeft.profiling.static_decoding import has_static_cache, make_static_decode_step
from lightpeft.profiling.step_functions import Step
from lightpeft.profiling.timing import STEP_FACTORIES, PhaseSeconds, make_step, time_steps

Model: TypeAlias = PeftModel | PreTrainedModel
CALLS_THAT_COMPILE = 3  # CUDA graphs are recorded at the second call, and replayed from the third


@dataclass(frozen=True)
class VariantSeconds:
    """Times of one form.

    Attributes:
        seconds: phase -> batch size -> method -> seconds of each round.
        compile: method -> what compiling it took; empty where nothing was compiled.
        models: method -> the model that was timed.
    """

    seconds: PhaseSeconds
    compile: dict[str, CompileCost]
    models: Mapping[str, Model]


def time_variants(
    models: Mapping[str, PeftModel],
    settings: ProfilingSettings,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[Variant, VariantSeconds]:
    """Time compiled training steps, and inference with the adapters merged, eager and compiled.

    Prefill and decode of a merged decoder are those of generation in transformers: decode has a
    cache of fixed size, which can be compiled, with CUDA graphs on CUDA; prefill is not compiled.
    Encoder-decoders keep the cache that grows, and their decode is not compiled either.

    Args:
        models: method -> model, vanilla among them; used up, since adapters are merged in place.
        settings: batch sizes, tokens a row, rounds, and what to compile.
        progress: called with what is being timed.

    Returns:
        Variant -> times; of the merged ones, methods that peft can't merge are left out, and all
        are if vanilla is one of them.
    """
    found: dict[Variant, VariantSeconds] = {}
    timer = _Timer(settings, progress)
    if settings.compile != "off":
        found["compiled"] = timer.time(models, "compiled", ["training"], settings.compile)
    merged = {name: merge_in_place(model) for name, model in models.items()}
    deployed = {name: model for name, model in merged.items() if model is not None}
    if BASELINE not in deployed:
        return found
    first = deployed[BASELINE]
    phases: list[Phase] = [phase for phase in list_phases(first) if phase != "training"]
    found["merged"] = timer.time(deployed, "merged", phases, "off")
    compilable: list[Phase] = [
        phase
        for phase in phases
        if phase == "inference" or (phase == "decode" and has_static_cache(first))
    ]
    if settings.compile != "off" and compilable:
        name: Variant = "merged_compiled"
        found[name] = timer.time(deployed, name, compilable, settings.compile)
    return found


def make_deployed_step(phase: Phase, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a step of a merged model, which decodes with a cache of fixed size if it can."""
    if phase == "decode" and has_static_cache(model):
        return make_static_decode_step(model, batch)
    return STEP_FACTORIES[phase](model, dict(batch))


@dataclass(frozen=True)
class _Timer:
    settings: ProfilingSettings
    progress: Callable[[str], None]

    def time(
        self,
        models: Mapping[str, Model],
        variant: Variant,
        phases: Iterable[Phase],
        scope: CompileScope,
    ) -> VariantSeconds:
        """Time phases of one variant, all models in turns."""
        seconds: PhaseSeconds = {}
        for_inference = variant != "compiled"
        with ExitStack() as stack:
            counts = {
                name: stack.enter_context(
                    compiling(model, scope, dynamic=False, cuda_graphs=for_inference)
                )
                for name, model in models.items()
            }
            for phase in phases:
                seconds[phase] = {}
                for size in self.settings.batch_sizes:
                    self.progress(f"{phase}, {variant.replace('_', ', ')}, batches of {size}")
                    steps = {
                        name: self._make_step(phase, model, size) for name, model in models.items()
                    }
                    for name in steps if scope != "off" else ():
                        with counting(counts[name]):
                            for _ in range(CALLS_THAT_COMPILE):
                                steps[name]()
                    device = next(iter(models.values())).device
                    seconds[phase][size] = time_steps(steps, self.settings, device)
        if scope == "off":
            return VariantSeconds(seconds, {}, models)
        for name, count in counts.items():
            self.progress(f"{name}: {count.describe()}")
        costs = {
            name: CompileCost(
                graphs=count.graphs,
                recompilations=count.recompilations,
                graph_breaks=count.graph_breaks,
                seconds=count.seconds,
            )
            for name, count in counts.items()
        }
        return VariantSeconds(seconds, costs, models)

    def _make_step(self, phase: Phase, model: Any, batch_size: int) -> Step:
        if phase == "training":
            return make_step(phase, model, batch_size=batch_size, settings=self.settings)
        batch = make_random_batch(model, batch_size=batch_size, length=self.settings.length)
        step = make_deployed_step(phase, model, batch)
        return begin_cuda_graphs(step) if model.device.type == "cuda" else step


def begin_cuda_graphs(step: Step) -> Step:
    """Tell CUDA graphs before each call that the outputs of the last one are not needed."""

    def marked() -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return step()

    return marked
