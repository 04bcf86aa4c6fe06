"""Measure what a step of the estimation costs against a plain LoRA step.

    python -m experiments.estimation_cost --shape minilm --rows 16 --length 32

Random weights, one random batch. In each round, a plain step, one with accelerated LoRA layers, as
in fine-tuning, a step of the estimation's first half and one of its second half, whose scores are
summed, take turns; the ratios are taken in each round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any

import torch
import typer
from peft import PeftModel

from lightpeft.acceleration.accelerate import accelerate
from lightpeft.acceleration.dropouts import short_draws
from lightpeft.benchmark.random_models import build_random_model
from lightpeft.benchmark.run import BenchmarkConfig, make_lora_config
from lightpeft.core.config import EstimationConfig
from lightpeft.estimation.energy import InputSquares
from lightpeft.estimation.importance import ImportanceTracker
from lightpeft.estimation.layer_changes import LayerChanges
from lightpeft.estimation.training import EstimationTrainer
from lightpeft.modeling.adapters import get_peft_model_unmapped
from lightpeft.modeling.inspection import inspect_model
from lightpeft.modeling.masks import Masks
from lightpeft.peft_methods.registry import resolve_config
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.speedup import compute_speedup
from lightpeft.profiling.step_functions import make_training_step
from lightpeft.profiling.timing import time_interleaved

_PLAIN = "plain LoRA step"


def main(
    shape: Annotated[str, typer.Option(help="a shape of lightpeft.benchmark")] = "minilm",
    rows: Annotated[int, typer.Option(min=1)] = 16,
    length: Annotated[int, typer.Option(min=4)] = 32,
    rounds: Annotated[int, typer.Option(min=3)] = 15,
) -> None:
    """Print a Markdown table: seconds, and times those of a plain step with quartiles."""
    with ExitStack() as stack:
        plain, accelerated = (_build_model(shape)[0] for _ in range(2))
        accelerate(accelerated)
        batch = make_random_batch(plain, batch_size=rows, length=length)
        steps: dict[str, Callable[[], Any]] = {
            _PLAIN: make_training_step(plain, batch),
            "accelerated LoRA step": make_training_step(accelerated, batch),
            "estimation, first half": _make_step(stack, shape, batch, count=False),
            "estimation, second half": _make_step(stack, shape, batch, count=True),
        }
        seconds = time_interleaved(steps, warmup=2, rounds=rounds)
    halves = [times for name, times in seconds.items() if name.startswith("estimation")]
    seconds["estimation, mean"] = [statistics.mean(pair) for pair in zip(*halves, strict=True)]
    print("| step | median | times a plain step | quartiles |\n|---|---:|---:|---:|")
    for name, times in seconds.items():
        q1, ratio, q3 = compute_speedup(times, seconds[_PLAIN])
        median = 1000 * statistics.median(times)
        print(f"| {name} | {median:.0f} ms | {ratio:.2f}x | {q1:.2f} to {q3:.2f} |")


def _build_model(shape: str) -> tuple[PeftModel, Any]:
    """Return a model with LoRA on all linears of its blocks, and its shape."""
    base = build_random_model(shape, dtype=torch.float32, device=torch.device("cpu"))
    units = inspect_model(base)
    lora = resolve_config(make_lora_config(BenchmarkConfig(shape=shape)), base, units)
    return get_peft_model_unmapped(base, lora), units


def _make_step(stack: ExitStack, shape: str, batch: Any, *, count: bool) -> Callable[[], Any]:
    """Return a function that runs one step of the estimation, on a model of its own."""
    model, units = _build_model(shape)
    base, config = model.get_base_model(), EstimationConfig()
    stack.enter_context(short_draws(model))
    masks = stack.enter_context(Masks(base, units, l1=config.l1))
    tracker = stack.enter_context(ImportanceTracker(model, masks, reduction=config.reduction))
    squares = stack.enter_context(InputSquares(base, units))
    changes = stack.enter_context(LayerChanges(base, units))
    trainer = EstimationTrainer(model, tracker, (squares, changes), config)
    return lambda: trainer.run_step(1, batch, count=count)


if __name__ == "__main__":
    typer.run(main)
