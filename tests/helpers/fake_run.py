"""A synthetic run of the pipeline, written as the stages write it: for the report's tests."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import torch
from helpers.data_cards import make_data_card
from helpers.params_file import write_params
from peft import LoraConfig

from lightpeft.core.benchmark_result import (
    BenchmarkResult,
    EstimationCost,
    MethodResult,
    PeakMemory,
    Speedup,
    StepTiming,
)
from lightpeft.core.block_shape import AttentionBlock, Block, FeedForwardBlock, LinearShape
from lightpeft.core.scores import CRITERIA, Scores
from lightpeft.core.shape import ModelShape
from pipeline.common.artefacts import EstimationTiming, Evaluation, Timing
from pipeline.common.data_card import DataCard
from pipeline.common.methods import METHODS, has_plan
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import Params, load_params
from pipeline.stages import report
from pipeline.stages.prune import count_plan_cost, make_method_plan

QUALITY = dict.fromkeys(METHODS, 0.75) | {"light": 0.77125, "vanilla": 0.7755, "random": 0.7321}
SPEED = dict.fromkeys(METHODS, 1.7) | {"light": 1.74321, "vanilla": 1.0, "random": 1.73}
_PRUNED_DIMS = {
    "attention.self.query": "out",
    "attention.self.value": "out",
    "attention.output.dense": "in",
    "intermediate.dense": "out",
    "output.dense": "in",
}


def write_run(root: Path, *, labels: tuple[str, ...] = ("no", "yes"), **sizes: Any) -> Paths:
    """Write every input of the report under `root`; no labels: a regression.

    Args:
        root: gets params.yaml and the stages' folders.
        labels: of the task.
        sizes: `layers`, `heads`, `neurons`, and sections of params.yaml with changed keys.

    Returns:
        the paths of the run.
    """
    shape = [sizes.pop(key, usual) for key, usual in (("layers", 2), ("heads", 4), ("neurons", 32))]
    params = _write_params(root, sizes)
    paths = Paths(root)
    metric = "accuracy" if labels else "pearson"
    _make_card(params, labels, metric).write(paths.prepared)
    scores = _make_scores(*shape)
    scores.save(paths.scores)
    EstimationTiming(seconds=16.2, steps=100, steps_per_second=6.173).write(paths.estimate_timing)
    for method in params.methods:
        _write_training(paths, method)
        quality = _make_evaluation(labels, metric, QUALITY[method], light=method != "vanilla")
        quality.write(paths.locate_evaluation(method))
        if not has_plan(method):
            continue
        config = params.prune.make_config(method, seed=params.seed, decoder=False)
        plan = make_method_plan(method, scores, config)
        plan.save(paths.locate_plan(method))
        count_plan_cost(plan, scores).write(paths.locate_cost(method))
    _make_benchmark(params).save(paths.benchmark)
    return paths


def _write_params(root: Path, changes: dict[str, Any]) -> Params:
    prune = {"modules": 0.0, "ranks": 0.0, "module_criterion": "importance"}
    write_params(root, {"prune": prune}, changes)
    return load_params(root / "params.yaml")


def _make_scores(layers: int, heads: int, neurons: int) -> Scores:
    generator = torch.Generator().manual_seed(0)
    hidden, paths = 8 * heads, [f"bert.encoder.layer.{n}" for n in range(layers)]
    blocks: list[Block] = []
    for path in paths:
        linears: dict[str, dict[str, LinearShape]] = {"attention": {}, "feed_forward": {}}
        for name, pruned_dim in _PRUNED_DIMS.items():
            is_attention = name.startswith("attention")
            width = hidden if is_attention else neurons
            linears["attention" if is_attention else "feed_forward"][f"{path}.{name}"] = (
                LinearShape(
                    inputs=hidden if pruned_dim == "out" else width,
                    outputs=width if pruned_dim == "out" else hidden,
                    bias=True,
                    pruned_dim="out" if pruned_dim == "out" else "in",
                    unit_size=8 if is_attention else 1,
                )
            )
        blocks += [
            AttentionBlock(path=f"{path}.attention", units=heads, linears=linears["attention"]),
            FeedForwardBlock(path=path, units=neurons, linears=linears["feed_forward"]),
        ]
    parameters = {"embeddings": 1000 * hidden, "norms": 4 * hidden * layers, "head": 2 * hidden}
    shape = ModelShape(model_type="bert", blocks=tuple(blocks), non_block_parameters=parameters)

    def draw(blocks: dict[str, int]) -> dict[str, dict[str, torch.Tensor]]:
        return {
            criterion: {
                path: (torch.randn(total, generator=generator) + depth / layers).exp()
                for depth, (path, total) in enumerate(blocks.items())
            }
            for criterion in CRITERIA
        }

    names = ("head_movement", "head_movement_max", "neuron_movement", "neuron_movement_max")
    return Scores(
        shape=shape,
        fingerprint="f" * 16,
        peft=LoraConfig(r=8, target_modules="x"),
        layers={},
        heads=draw(shape.heads),
        neurons=draw(shape.neurons),
        modules={path: 0.02 + 0.1 * n / len(shape.linears) for n, path in enumerate(shape.linears)},
        ranks={path: torch.rand(8, generator=generator) for path in shape.linears},
        adapter={},
        curve=[
            {"step": step, "task_loss": _compute_loss(step)}
            | {name: 0.0004 * step * (n + 1) for n, name in enumerate(names)}
            for step in range(2, 102, 2)
        ],
        steps=100,
    )


def _compute_loss(step: int) -> float:
    return 0.35 + 0.35 * math.exp(-step / 120) + 0.04 * math.sin(step * 1.7)


def _write_training(paths: Paths, method: str) -> None:
    paths.locate_model(method).mkdir(parents=True)
    first = 0 if method == "vanilla" else 100
    with paths.locate_curve(method).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "loss", "lr", "validation_metric"])
        writer.writeheader()
        for step in range(first + 5, 405, 5):
            writer.writerow(
                {"step": step, "loss": _compute_loss(step) + len(method) / 200, "lr": 1e-3}
            )
            if step % 100 == 0:
                writer.writerow({"step": step, "validation_metric": QUALITY[method] - 20 / step})
    Timing(seconds=61.5, steps=400 - first, warm=first > 0).write(paths.locate_timing(method))


def _make_evaluation(
    labels: tuple[str, ...], metric: str, value: float, *, light: bool
) -> Evaluation:
    metrics = {metric: value, "f1" if labels else "spearman": value - 0.01}
    count = len(labels)
    confusion = tuple(tuple(90 if i == j else 10 for j in range(count)) for i in range(count))
    return Evaluation(
        split="test",
        rows=2000,
        metric=metric,
        metrics=metrics,
        interval=(value - 0.018, value + 0.018),
        labels=labels,
        confusion=confusion or None,
        base_parameters=17_000_123 if light else 22_713_216,
        trainable_parameters=890_000 if light else 1_180_000,
        lifted={name: number - 0.05 for name, number in metrics.items()} if light else None,
    )


def _make_card(params: Params, labels: tuple[str, ...], metric: str) -> DataCard:
    split = {"mean_tokens": 18.25, "p50_tokens": 17, "p95_tokens": 35, "max_tokens": 64}
    split |= {"tokens_lost": 21, "most_lost": 9}
    counts = dict.fromkeys(labels, 1000)
    return make_data_card(
        task=params.data.task,
        task_name="text-classification" if labels else "text-regression",
        labels=labels,
        metrics=["accuracy", "f1"] if labels else ["pearson", "spearman"],
        max_length=64,
        splits={
            name: split | {"rows": rows, "truncated": 3, "labels": counts}
            for name, rows in (("train", 12000), ("validation", 1000), ("test", 2000))
        },
        dropped={"train: empty text": {"rows": 120, "first": 7}},
        baseline={"name": "word overlap", "accuracy": 0.6035} if labels else None,
        sources={"torch": "2.13.0", "sympy": "1.14"},
    )


def _make_benchmark(params: Params) -> BenchmarkResult:
    def make_timing(method: str, batch_size: int) -> StepTiming:
        median = 0.02 * batch_size / SPEED[method]
        return StepTiming(
            median_s=median,
            q1_s=median * 0.98,
            q3_s=median * 1.03,
            tokens_per_s=batch_size * 32 / median,
        )

    def make_speedup(method: str) -> Speedup:
        speed = SPEED[method]
        return Speedup(
            median=speed,
            q1=speed - 0.02,
            q3=speed + 0.03,
            flop_bound=speed * 1.05,
            fraction_of_flop_bound=1 / 1.05,
        )

    def make_result(method: str) -> MethodResult:
        timings = {size: make_timing(method, size) for size in sizes}
        speedups = dict.fromkeys(sizes, make_speedup(method))
        training, inference = (1.0, 1.0) if method == "vanilla" else (0.71234, 0.81)
        peaks = {"training": 300_000_000, "inference": 100_000_000}
        return MethodResult(
            base_parameters=1,
            trainable_parameters=1,
            total_parameters=2,
            timings={"training": timings, "inference": timings},
            speedups={"training": speedups, "inference": speedups},
            memory=PeakMemory(model_bytes=1, phase_bytes=peaks, batch_size=32, how="VmHWM"),
            memory_ratios={"training": training, "inference": inference},
        )

    sizes = params.benchmark.batch_sizes
    return BenchmarkResult(
        device="a processor, 2 threads",
        versions={"python": "3.11.9", "torch": "2.13.0"},
        dtype="float32",
        length=32,
        rounds=15,
        methods={method: make_result(method) for method in params.methods},
        estimation=EstimationCost(seconds=16.2, training_fraction=0.20876, break_even_steps=190),
    )


def write_report(paths: Paths) -> str:
    """Report on a run that was written, and return the page."""
    report.main(paths)
    return paths.report.read_text(encoding="utf-8")


def write_reported_run(root: Path, **options: object) -> str:
    """Write a run, report on it, and return the page."""
    return write_report(write_run(root, **options))


def edit_json(path: Path, **values: object) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
