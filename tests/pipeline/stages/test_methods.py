"""Every method through the stages from prune to report, beside vanilla."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.stage_workspace import set_params, write_workspace

from lightpeft.core.benchmark_result import BenchmarkResult
from lightpeft.core.plan import PruningPlan
from pipeline.common.artefacts import EstimationTiming, Evaluation, Timing
from pipeline.common.params import METHODS
from pipeline.common.paths import Paths
from pipeline.stages import benchmark, evaluate, finetune, prune, report

PATHS = Paths()
FIXED = ("qv", "small", "freeze")
STEPS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every method went through all stages."""
    folder = write_workspace(tmp_path_factory.mktemp("methods"))
    set_params(
        folder,
        methods=list(METHODS),
        finetune={"steps": STEPS, "batch_size": 4},
        benchmark={"batch_sizes": [2], "length": 16, "warmup": 0, "rounds": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(benchmark, "can_measure_memory", lambda device: False)
        timing = EstimationTiming(seconds=1.0, steps=4, steps_per_second=4.0)
        timing.write(PATHS.estimate_timing)
        for method in METHODS:
            for stage in (prune, finetune, evaluate):
                stage.main(method, PATHS)
        benchmark.main(paths=PATHS)
        report.main(PATHS)
    return folder


@pytest.fixture
def paths(run: Path) -> Paths:
    return Paths(run)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_sees_the_same_number_of_batches(paths: Paths, method: str):
    timing = Timing.read(paths.locate_timing(method))
    before = 0 if method in ("vanilla", *FIXED) else 4

    assert timing.steps == STEPS - before
    assert timing.warm == bool(before)


@pytest.mark.parametrize("method", FIXED)
def test_what_no_score_decides_is_the_same_adapter_on_the_unpruned_base(paths: Paths, method: str):
    evaluation = Evaluation.read(paths.locate_evaluation(method))
    vanilla = Evaluation.read(paths.locate_evaluation("vanilla"))

    assert evaluation.base_parameters == vanilla.base_parameters
    assert evaluation.trainable_parameters < vanilla.trainable_parameters
    assert evaluation.lifted == pytest.approx(evaluation.metrics)


def test_small_trains_as_much_as_light(paths: Paths):
    light, small = (
        Evaluation.read(paths.locate_evaluation(method)).trainable_parameters
        for method in ("light", "small")
    )
    linears = PruningPlan.load(paths.locate_plan("small")).shape.linears.values()

    assert abs(small - light) <= max(x.inputs + x.outputs for x in linears) / 2


def test_metrics_and_benchmark_name_every_method(paths: Paths):
    metrics = json.loads(paths.metrics.read_text())

    assert [*metrics] == [*BenchmarkResult.load(paths.benchmark).methods] == [*METHODS]
    priced = {name for name, values in metrics.items() if "estimate_fraction" in values}
    assert priced == {*METHODS} - {"vanilla", *FIXED}


def test_the_estimation_is_priced_with_a_method_that_follows_it(paths: Paths, monkeypatch):
    monkeypatch.chdir(paths.root)
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: False)
    order = ["qv", "vanilla", "magnitude"]
    set_params(paths.root, methods=order, benchmark={"batch_sizes": [2], "length": 16, "rounds": 3})
    monkeypatch.setattr(Paths, "remove_other_methods", lambda *_: None)
    seconds = Timing.read(paths.locate_timing("magnitude")).seconds

    benchmark.main(paths=PATHS)

    cost = BenchmarkResult.load(PATHS.benchmark).estimation
    assert cost is not None
    assert cost.training_fraction == pytest.approx(1 / (1 + seconds))
