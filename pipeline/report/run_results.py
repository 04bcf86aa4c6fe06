"""What the earlier stages found out, read once for the report."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightpeft.core.benchmark_result import BenchmarkResult, EstimationCost, Phase, Speedup
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from pipeline.common.data_card import DataCard
from pipeline.common.errors import PipelineError
from pipeline.common.files import read_json
from pipeline.common.params import Params
from pipeline.common.paths import Paths
from pipeline.metrics.definitions import find_measure

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of `methods`: what it kept, how it trained, how well it does.

    Attributes:
        name: as in `methods`.
        plan: the units it keeps.
        cost: `before` and `after` -> part of the model -> parameters and FLOPs.
        curve: rows of its training.
        seconds: wall time of its training.
        quality: its eval.json.
    """

    name: str
    plan: PruningPlan
    cost: dict[str, Any]
    curve: list[Row]
    seconds: float
    quality: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A whole run of the pipeline; `methods` in the order that was asked for."""

    params: Params
    card: DataCard
    scores: Scores
    benchmark: BenchmarkResult
    methods: dict[str, Method]

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting; each section by name, for a test holds them against dvc.yaml."""
        params = self.params
        return {
            "seed": params.seed,
            "methods": params.methods,
            "model": dict(params.model),
            "data": dict(params.data),
            "peft": dict(params.peft),
            "estimate": dict(params.estimate),
            "prune": dict(params.prune),
            "finetune": dict(params.finetune),
            "evaluate": dict(params.evaluate),
            "benchmark": dict(params.benchmark),
        }

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self.card.metric

    @property
    def metrics_there(self) -> list[str]:
        """Those of the task's metrics that were measured."""
        measured = next(iter(self.methods.values())).quality
        return [name for name in self.card.metrics if name in measured]

    @property
    def lead(self) -> Method:
        """The method that the page tells about: light, or the first that cuts something."""
        cutting = [method for method in self.methods.values() if not method.plan.is_identity]
        fallback = cutting[0] if cutting else next(iter(self.methods.values()))
        return self.methods.get("light", fallback)

    @property
    def phases(self) -> list[Phase]:
        """Measured phases: training, and inference or prefill and decode."""
        return self.benchmark.phases

    @property
    def batch(self) -> int:
        """The largest measured batch size."""
        return self.benchmark.batch_sizes[-1]

    def speedup(self, method: str, phase: Phase) -> Speedup:
        """Return how many times faster than vanilla, at the largest batch size."""
        return self.benchmark.methods[method].speedups[phase][self.batch]

    def memory(self, method: str, phase: Phase) -> float | None:
        """Return peak memory divided by vanilla's; None where it can't be measured."""
        return self.benchmark.methods[method].memory_ratios[phase]

    @property
    def estimation(self) -> EstimationCost:
        """What the estimation phase cost."""
        if self.benchmark.estimation is None:
            raise PipelineError("results/benchmark.json has no estimation; dvc repro makes it")
        return self.benchmark.estimation

    def metrics(self) -> dict[str, dict[str, float | int]]:
        """What metrics.json holds: a flat, rounded row per method, without times of day."""
        return {name: self._metrics_of(method) for name, method in self.methods.items()}

    def _metrics_of(self, method: Method) -> dict[str, float | int]:
        quality, lifted = method.quality, method.quality["lifted"]
        found: dict[str, Any] = {f"test_{self.metric}": quality[self.metric]}
        if lifted:
            found[f"lifted_test_{self.metric}"] = lifted[self.metric]
        validated = [row["validation_metric"] for row in method.curve if "validation_metric" in row]
        if validated:
            select, kept = self.card.select, validated[-1]
            if self.params.finetune.best_checkpoint:  # the weights of that validation were kept
                kept = (max if find_measure(select).higher_is_better else min)(validated)
            found[f"validation_{select}"] = kept
        found["base_parameters"] = int(quality["base_parameters"])
        found["trainable_parameters"] = int(quality["trainable_parameters"])
        for phase in self.phases:
            name = "train" if phase == "training" else phase
            found[f"{name}_speedup"] = self.speedup(method.name, phase).median
            found[f"{name}_memory_ratio"] = self.memory(method.name, phase)
        if not method.plan.is_identity:
            found["estimate_share"] = self.estimation.training_fraction
        # A null is nothing to compare with: what wasn't measured isn't there.
        return {key: round(value, 4) for key, value in found.items() if value is not None}


def load_outcome(paths: Paths, params: Params) -> Outcome:
    """Read everything that the report tells about.

    Raises:
        PipelineError, LightPeftError: a file is missing or malformed.
    """
    return Outcome(
        params=params,
        card=DataCard.read(paths.prepared, PipelineError),
        scores=Scores.load(paths.scores),
        benchmark=BenchmarkResult.load(paths.benchmark),
        methods={name: _method(paths, name) for name in params.methods},
    )


def _method(paths: Paths, name: str) -> Method:
    return Method(
        name=name,
        plan=PruningPlan.load(paths.plan(name)),
        cost=read_json(paths.cost(name), PipelineError),
        curve=read_curve(paths.curve(name)),
        seconds=read_json(paths.timing(name), PipelineError)["seconds"],
        quality=read_json(paths.evaluation(name), PipelineError),
    )


def read_curve(path: Path) -> list[Row]:
    """Read a CSV of numbers; a row has only the columns that were measured at its step."""
    if not path.is_file():
        raise PipelineError(f"{path} does not exist; dvc repro makes it")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [{key: float(cell) for key, cell in row.items() if cell} for row in rows]
