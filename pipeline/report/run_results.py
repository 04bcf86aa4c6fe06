"""The results of all earlier stages, loaded once for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lightpeft.core.benchmark_result import BenchmarkResult, Phase, Speedup
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from pipeline.common.artefacts import (
    EstimationTiming,
    Evaluation,
    MethodSummary,
    PlanCost,
    RunSummary,
    Timing,
)
from pipeline.common.data_card import DataCard
from pipeline.common.errors import PipelineError
from pipeline.common.methods import has_plan
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import Params
from pipeline.metrics.definitions import find_best_value


@dataclass(frozen=True, kw_only=True)
class MethodResults:
    """Results of one entry of `methods`.

    Attributes:
        name: as in `methods`.
        plan: the units it keeps; None: all, and it trains something else than a plan describes.
        cost: parameters and FLOPs, before and after pruning; None without a plan.
        curve: of its fine-tuning; columns `step`, `loss`, `lr`, `validation_loss` and
            `validation_metric`, NaN where a column was not measured at a step.
        timing: of its fine-tuning.
        evaluation: metrics on the test split.
    """

    name: str
    plan: PruningPlan | None
    cost: PlanCost | None
    curve: pd.DataFrame
    timing: Timing
    evaluation: Evaluation

    @property
    def follows_estimation(self) -> bool:
        """Whether scores decided what it keeps."""
        return self.plan is not None and self.plan.follows_estimation

    @property
    def quality(self) -> float:
        """Value of the main metric on the test split."""
        return self.evaluation.metrics[self.evaluation.metric]


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """Results of a run of the pipeline; `methods` in the order of params.yaml."""

    params: Params
    card: DataCard
    scores: Scores
    estimation: EstimationTiming
    benchmark: BenchmarkResult
    methods: dict[str, MethodResults]

    @property
    def metric(self) -> str:
        """Name of the task's main metric."""
        return self.card.metric

    @property
    def metric_title(self) -> str:
        """The main metric's name as it is shown, with the class that F1 is of."""
        return self.card.describe_metric(self.metric)

    @property
    def measured_metrics(self) -> list[str]:
        """Names of the task's metrics that were measured."""
        return [name for name in self.card.metrics if name in self.vanilla.evaluation.metrics]

    @property
    def vanilla(self) -> MethodResults:
        """The unpruned baseline."""
        return self.methods["vanilla"]

    @property
    def highlighted(self) -> MethodResults:
        """The method that the page describes: light, or else the first that scores decide on."""
        pruning = [method for method in self.methods.values() if method.follows_estimation]
        return self.methods.get("light", [*pruning, self.vanilla][0])

    @property
    def plan(self) -> PruningPlan:
        """The plan of the highlighted method, which has one."""
        assert self.highlighted.plan is not None
        return self.highlighted.plan

    @property
    def largest_batch_size(self) -> int:
        """The largest batch size of the benchmark, at which speeds are reported."""
        return self.benchmark.batch_sizes[-1]

    def get_speedup(self, method: str, phase: Phase) -> Speedup:
        """Return how many times faster than vanilla a method is, at the largest batch size."""
        return self.benchmark.methods[method].speedups[phase][self.largest_batch_size]

    def get_memory_ratio(self, method: str, phase: Phase) -> float | None:
        """Return peak memory divided by vanilla's, or None where it was not measured."""
        return self.benchmark.methods[method].memory_ratios.get(phase)

    def compute_end_to_end_speedup(self, method: MethodResults) -> float:
        """Return how many times faster a method's whole training is than vanilla's.

        It is counted in steps of vanilla: vanilla's batches, divided by the method's batches over
        its training speed-up plus the batches of the estimation that it continues, times what such
        a batch takes. The speed-up is the benchmark's, where methods take turns, at the batch size
        nearest to `finetune.batch_size` (as a ratio). A batch of the estimation takes its seconds
        per step, over those of vanilla's fine-tuning, both without validations.
        """
        trained, wanted = self.benchmark.batch_sizes, self.params.finetune.batch_size
        nearest = min(trained, key=lambda size: max(size, wanted) / min(size, wanted))
        speedup = self.benchmark.methods[method.name].speedups["training"][nearest].median
        steps = method.timing.steps / speedup
        if method.follows_estimation:
            vanilla_step = self.vanilla.timing.seconds / self.vanilla.timing.steps
            steps += self.estimation.seconds / vanilla_step
        return self.vanilla.timing.steps / steps

    def summarize(self) -> RunSummary:
        """Return the contents of metrics.json."""
        return RunSummary(methods={name: self._summarize(m) for name, m in self.methods.items()})

    def _summarize(self, method: MethodResults) -> MethodSummary:
        evaluation, estimation = method.evaluation, self.benchmark.estimation
        metrics = {
            f"test_{self.metric}": method.quality,
            f"lifted_test_{self.metric}": (evaluation.lifted or {}).get(self.metric),
            f"validation_{self.card.selection_metric}": self._find_selected_validation(
                method.curve
            ),
        }
        values = {
            "metrics": {name: value for name, value in metrics.items() if value is not None},
            "base_parameters": evaluation.base_parameters,
            "trainable_parameters": evaluation.trainable_parameters,
        }
        for phase in self.benchmark.phases:
            name = "train" if phase == "training" else phase
            values[f"{name}_speedup"] = self.get_speedup(method.name, phase).median
            values[f"{name}_memory_ratio"] = self.get_memory_ratio(method.name, phase)
        if method.plan is not None:
            values["end_to_end_speedup"] = self.compute_end_to_end_speedup(method)
        if estimation and method.follows_estimation:
            values["estimate_fraction"] = estimation.training_fraction
        return MethodSummary.model_validate(values | self._summarize_target(method))

    def _summarize_target(self, method: MethodResults) -> dict[str, float | None]:
        """Return what the plan was to reach, is predicted to, and was measured to; or nothing."""
        target = method.plan.settings.get("target") if method.plan else None
        if target is None:
            return {}
        return {
            "target": target["value"],
            "target_predicted": target["predicted"],
            "target_measured": self.measure_target(method.name, target["quantity"]),
        }

    def measure_target(self, method: str, quantity: str) -> float | None:
        """Return what the benchmark says of a key of `prune.target`; None: it did not measure it.

        FLOPs are counted there, too, not measured.
        """
        measured, vanilla = self.benchmark.methods[method], self.benchmark.methods["vanilla"]
        if quantity == "parameters":
            return measured.total_parameters / vanilla.total_parameters
        if quantity == "memory":
            return self.get_memory_ratio(method, "training")
        if quantity == "inference_speedup":
            phase: Phase = "inference" if "inference" in self.benchmark.phases else "prefill"
            return self.get_speedup(method, phase).median
        training = self.get_speedup(method, "training")
        if quantity == "training_speedup":
            return training.median
        return 1 / training.flop_bound if training.flop_bound else None

    def _find_selected_validation(self, curve: pd.DataFrame) -> float | None:
        """Return the validation metric of the weights that were kept: the best or the last."""
        values = curve["validation_metric"].dropna()
        if values.empty:
            return None
        if not self.params.finetune.best_checkpoint:
            return float(values.iloc[-1])
        return float(find_best_value(self.card.selection_metric, values))


def load_run_results(paths: Paths, params: Params) -> RunResults:
    """Load all that the report needs.

    Raises:
        PipelineError: a file is missing or malformed.
        LightPeftError: the plan, the scores or the benchmark is missing or malformed.
    """
    return RunResults(
        params=params,
        card=DataCard.read(paths.prepared, PipelineError),
        scores=Scores.load(paths.scores),
        estimation=EstimationTiming.read(paths.estimate_timing),
        benchmark=BenchmarkResult.load(paths.benchmark),
        methods={name: _load_method(paths, name) for name in params.methods},
    )


def _load_method(paths: Paths, name: str) -> MethodResults:
    return MethodResults(
        name=name,
        plan=PruningPlan.load(paths.locate_plan(name)) if has_plan(name) else None,
        cost=PlanCost.read(paths.locate_cost(name)) if has_plan(name) else None,
        curve=_read_curve(paths.locate_curve(name)),
        timing=Timing.read(paths.locate_timing(name)),
        evaluation=Evaluation.read(paths.locate_evaluation(name)),
    )


def _read_curve(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist; dvc repro makes it") from error
    except (ValueError, OSError) as error:
        raise PipelineError(f"{path} is not a readable CSV file ({error})") from error
