"""Measure an unpruned and a pruned model with random weights of a published size."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

import torch
from peft import LoraConfig, PeftModel
from pydantic import Field
from transformers import PreTrainedModel

from lightpeft.acceleration.accelerate import accelerate
from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.benchmark.random_models import (
    MODEL_CLASSES,
    build_random_model,
    check_free_memory,
    make_config,
)
from lightpeft.core.benchmark_result import BenchmarkResult, CompileScope, PeakMemory
from lightpeft.core.config import Config, Count, PruningConfig, Ratio
from lightpeft.core.errors import ConfigError, LightPeftError
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.fingerprint import compute_fingerprint
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.peft_targets import list_saved_modules
from lightpeft.planning.make_plan import make_plan
from lightpeft.profiling.compare import compare
from lightpeft.profiling.memory import can_measure_memory, measure_peak_memory, run_in_subprocess
from lightpeft.profiling.random_batches import find_max_batch_length
from lightpeft.profiling.settings import ProfilingSettings, TrainingSettings
from lightpeft.profiling.speedup import BASELINE
from lightpeft.pruning.prune import prune


class BenchmarkConfig(Config):
    """What to measure; each field is the command-line option of its name.

    Attributes:
        shape: name of a published model (`model_sizes.MODEL_SIZES`).
        ratio: fraction of heads and of neurons to prune, in [0, 1).
        head_granularity: prune whole KV groups, or single query heads within them.
        layers: fraction of the layers to prune whole, in [0, 1).
        modules: fraction of the PEFT modules to prune, in [0, 1).
        ranks: fraction of the PEFT ranks to prune, in [0, 1).
        rank: LoRA rank before pruning.
        dtype: of the weights, by torch's name.
        batch_sizes: rows per batch, each size measured separately.
        length: tokens per row; None for the model's default.
        warmup: rounds that are run but not counted.
        rounds: rounds that are counted.
        gradient_checkpointing, optimizer, masters: see `TrainingSettings`.
        accelerate: run LoRA layers with fewer kernels (`lightpeft.accelerate`).
        compile: measure also compiled: off, blocks (each layer) or whole (the model).
    """

    shape: str = "roberta-large"
    ratio: Ratio = 0.333
    head_granularity: Literal["kv_group", "query_head"] = "kv_group"
    layers: Ratio = 0.0
    modules: Ratio = 0.0
    ranks: Ratio = 0.0
    rank: Count = 8
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_sizes: tuple[int, ...] = (1, 32)
    length: int | None = None
    warmup: int = 3
    rounds: int = 15
    gradient_checkpointing: Annotated[bool, Field(description="true or false")] = False
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    masters: Literal["float32", "bfloat16"] = "float32"
    accelerate: Annotated[bool, Field(description="true or false")] = False
    compile: CompileScope = "off"

    def model_post_init(self, context: object) -> None:
        """Check the shape, and what is measured of it.

        Raises:
            LightPeftError: names the field, its value and what is allowed.
        """
        config = make_config(self.shape)  # refuses a shape that is not listed
        size, length = MODEL_SIZES[self.shape], self.profiling.length
        limit = find_max_batch_length(config, size.kind)
        if size.kind == "image" and length != size.length:
            raise ConfigError(
                f"length must be {size.length} for {self.shape}, because its images have "
                f"{size.length} tokens, got {length}; leave it out"
            )
        if limit is not None and length > limit:
            raise ConfigError(f"length must be at most {limit} for {self.shape}, got {length}")
        if self.masters == "bfloat16" != self.dtype:
            raise ConfigError(f"masters must be float32 with dtype {self.dtype}, got bfloat16")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def profiling(self) -> ProfilingSettings:
        """Settings of the measurement."""
        return ProfilingSettings(
            batch_sizes=self.batch_sizes,
            length=MODEL_SIZES[self.shape].length if self.length is None else self.length,
            warmup=self.warmup,
            rounds=self.rounds,
            training=TrainingSettings(
                gradient_checkpointing=self.gradient_checkpointing,
                optimizer=self.optimizer,
                masters=self.masters,
            ),
            compile=self.compile,
        )


def run_benchmark(
    config: BenchmarkConfig, device: torch.device, progress: Callable[[str], None]
) -> BenchmarkResult:
    """Compare the unpruned model with the pruned one.

    Raises:
        LightPeftError: the models or their batches don't fit into the device's memory.
    """

    def measure_memory(method: str) -> PeakMemory:
        measure = partial(_measure_memory, config, method, device)
        return measure() if device.type == "cuda" else run_in_subprocess(measure)

    methods = (BASELINE, "pruned")
    model_factories = {m: partial(build_method_model, config, m, device) for m in methods}
    check_free_memory(config.shape, dtype=config.torch_dtype, device=device)
    with _explain_out_of_memory(config, device):
        return compare(
            model_factories,
            config.profiling,
            measure_memory=measure_memory if can_measure_memory(device) else None,
            progress=progress,
        )


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is the accelerator, or the CPU if there is none.

    Raises:
        ConfigError: torch has no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    available = torch.device("cpu") if accelerator is None else accelerator
    if name not in ("auto", "cpu", available.type):
        raise ConfigError(
            f"--device is {name}, but torch sees no {name.upper()} device here; "
            f"use {available.type}"
        )
    return available if name == "auto" else torch.device(name)


def build_method_model(config: BenchmarkConfig, method: str, device: torch.device) -> PeftModel:
    """Build the unpruned or the pruned model, with random weights and a fresh adapter.

    The plan is one that `make_plan` makes, but it draws the pruned units at random.
    """
    base = build_random_model(config.shape, dtype=config.torch_dtype, device=device)
    scores = make_equal_scores(config, base)
    pruning = make_pruning_config(config, method)
    model = prune(base, make_plan(scores, pruning), scores, warm_start=False)
    if config.accelerate:
        accelerate(model)
    return model


def make_zero_scores(config: BenchmarkConfig, shape: ModelShape, fingerprint: str) -> Scores:
    """Return scores of a model that nothing was estimated of."""
    return Scores(
        shape=shape,
        fingerprint=fingerprint,
        peft=make_lora_config(config),
        layers={x.path: torch.zeros(x.layers) for x in shape.stacks if x.prunable},
        heads=_zero_scores(shape.heads),
        neurons=_zero_scores(shape.neurons),
        modules=dict.fromkeys(shape.linears, 0.0),
        ranks={path: torch.zeros(config.rank) for path in shape.linears},
        adapter={},
        curve=[],
        steps=0,
    )


def make_pruning_config(config: BenchmarkConfig, method: str) -> PruningConfig:
    """Return what is pruned at random in the pruned model; nothing in the unpruned one."""
    factor = float(method != BASELINE)
    return PruningConfig(
        layers=config.layers * factor,
        heads=config.ratio * factor,
        neurons=config.ratio * factor,
        modules=config.modules * factor,
        ranks=config.ranks * factor,
        criterion="random",
        head_granularity=config.head_granularity,
        neuron_scope="layer",
    )


def make_equal_scores(config: BenchmarkConfig, base: PreTrainedModel) -> Scores:
    """Return scores of a model as if LoRA had been estimated on all linears: all are zero."""
    shape, saved = inspect_model(base), list_saved_modules(make_lora_config(config))
    return make_zero_scores(config, shape, compute_fingerprint(base, shape, saved))


def _measure_memory(config: BenchmarkConfig, method: str, device: torch.device) -> PeakMemory:
    with _explain_out_of_memory(config, device):
        make_model = partial(build_method_model, config, method, device)
        return measure_peak_memory(make_model, config.profiling, device=device)


@contextlib.contextmanager
def _explain_out_of_memory(config: BenchmarkConfig, device: torch.device) -> Iterator[None]:
    """Turn a failed allocation into one line that says what to make smaller."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a class for it on CUDA; its allocator on the CPU only has a message.
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out_of_memory and "allocate memory" not in str(error):
            raise
        raise LightPeftError(
            f"out of memory: {config.shape} in {config.dtype} on {device}, batches of "
            f"{max(config.batch_sizes)}; use a smaller --shape, --batch-sizes, --length or --dtype"
        ) from error


def make_lora_config(config: BenchmarkConfig) -> LoraConfig:
    """Return LoRA for a listed model, with a fresh head where it has one."""
    kind = MODEL_SIZES[config.shape].kind
    return LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank,
        task_type=MODEL_CLASSES[kind][1],
        # peft knows the heads of its task types, and image classification is none of them.
        modules_to_save=["classifier"] if kind == "image" else None,
    )


def _zero_scores(totals: dict[str, int]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {path: torch.zeros(n) for path, n in totals.items()} for name in CRITERIA}
