"""Every method through the stages from prune to report, beside vanilla."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.stage_workspace import load_base_model, set_params, write_workspace
from safetensors.torch import load_file

from lightpeft.core.benchmark_result import BenchmarkResult
from lightpeft.core.plan import PruningPlan
from pipeline.common.artefacts import EstimationTiming, Evaluation, Timing
from pipeline.common.methods import METHODS
from pipeline.common.paths import Paths
from pipeline.stages import benchmark, estimate, evaluate, finetune, prune, report

PATHS = Paths()
FIXED = ("qv", "small", "freeze")
STOCK = ("peft:adalora", "peft:prompt_tuning")
RUN = (*METHODS[:2], *METHODS[3:8], *STOCK)
FOLLOWING = ("light", "magnitude")
STEPS = 8
BENCHMARK = {"batch_sizes": [2], "length": 16, "warmup": 0, "rounds": 3}
BASELINES = {
    "full": {"lr": 1e-3},
    "adalora": {"total_step": STEPS, "tinit": 1, "tfinal": 2, "init_r": 4, "target_r": 2},
    "prompt_tuning": {"num_virtual_tokens": 4, "lr": 0.02},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every method went through all stages."""
    folder = write_workspace(tmp_path_factory.mktemp("methods"))
    set_params(
        folder,
        methods=list(RUN),
        baselines=BASELINES,
        finetune={"steps": STEPS, "batch_size": 4},
        benchmark=BENCHMARK,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setattr(benchmark, "can_measure_memory", lambda device: False)
        timing = EstimationTiming(seconds=1.0, steps=4, steps_per_second=4.0)
        timing.write(PATHS.estimate_timing)
        for method in RUN:
            for stage in (prune, finetune, evaluate):
                stage.main(method, PATHS)
        benchmark.main(paths=PATHS)
        report.main(PATHS)
    return folder


@pytest.fixture
def paths(run: Path) -> Paths:
    return Paths(run)


@pytest.mark.parametrize("method", RUN)
def test_every_method_sees_the_same_number_of_batches(paths: Paths, method: str):
    timing = Timing.read(paths.locate_timing(method))
    before = 4 if method in FOLLOWING else 0

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


def test_full_trains_every_weight_of_the_base(paths: Paths):
    base, _ = load_base_model(paths.root)
    evaluation = Evaluation.read(paths.locate_evaluation("full"))

    assert evaluation.trainable_parameters == base.num_parameters()
    assert evaluation.base_parameters == 0
    assert evaluation.lifted is None


def test_methods_without_a_plan_have_no_flop_bound(paths: Paths):
    result = BenchmarkResult.load(paths.benchmark)

    for method in RUN:
        measured = result.methods[method]
        bound = measured.speedups["training"][2].flop_bound
        assert (bound is None) == (method in ("full", *STOCK))
        evaluation = Evaluation.read(paths.locate_evaluation(method))
        assert measured.trainable_parameters == evaluation.trainable_parameters


def test_metrics_and_benchmark_name_every_method(paths: Paths):
    metrics = json.loads(paths.metrics.read_text())

    assert [*metrics] == [*BenchmarkResult.load(paths.benchmark).methods] == [*RUN]
    priced = {name for name, values in metrics.items() if "estimate_fraction" in values}
    assert priced == {*FOLLOWING}


def test_dora_goes_through_all_stages(tmp_path: Path, monkeypatch):
    set_params(
        write_workspace(tmp_path),
        peft={"r": 4, "alpha": 8, "dora": True},
        finetune={"steps": STEPS, "batch_size": 4},
    )
    monkeypatch.chdir(tmp_path)
    estimate.main(PATHS)
    for stage in (prune, finetune, evaluate):
        stage.main("light", PATHS)

    weights = load_file(PATHS.locate_model("light") / "adapter_model.safetensors")
    magnitudes = [name for name in weights if name.endswith("lora_magnitude_vector")]
    evaluation = Evaluation.read(PATHS.locate_evaluation("light"))
    assert len(magnitudes) == sum("lora_A" in name for name in weights) > 0
    assert evaluation.trainable_parameters == sum(x.numel() for x in weights.values())
    assert evaluation.lifted is not None


def test_the_estimation_is_priced_with_a_method_that_follows_it(paths: Paths, monkeypatch):
    monkeypatch.chdir(paths.root)
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: False)
    monkeypatch.setattr(Paths, "remove_other_methods", lambda *_: None)
    set_params(paths.root, methods=["qv", "vanilla", "full", "magnitude"], benchmark=BENCHMARK)
    seconds = Timing.read(paths.locate_timing("magnitude")).seconds

    benchmark.main(paths=PATHS)

    cost = BenchmarkResult.load(PATHS.benchmark).estimation
    assert cost is not None
    assert cost.training_fraction == pytest.approx(1 / (1 + seconds))
