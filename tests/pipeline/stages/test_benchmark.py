import pytest
import torch
from helpers.params_file import change_params
from helpers.stage_workspace import load_base_model, write_workspace
from peft.tuners.lora import Linear as LoraLinear

import lightpeft
from lightpeft.acceleration.layer import AcceleratedLinear
from lightpeft.core.benchmark_result import BenchmarkResult, EstimationCost, PeakMemory
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from pipeline.common.artefacts import EstimationTiming, Timing
from pipeline.common.paths import Paths
from pipeline.stages import benchmark

METHODS = ("light", "vanilla")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A workspace in which both methods are fine-tuned, as far as the benchmark can tell."""
    folder, paths = write_workspace(tmp_path), Paths(tmp_path)
    scores = Scores.load(paths.scores)
    EstimationTiming(seconds=3.0, steps=4, steps_per_second=1.333).write(paths.estimate_timing)
    for method in METHODS:
        model, _ = load_base_model(folder)
        plan = PruningPlan.load(paths.locate_plan(method))
        lightpeft.save(lightpeft.prune(model, plan, scores), paths.locate_model(method))
        seconds = 5.0 if method == "light" else 12.0
        Timing(seconds=seconds, steps=20, warm=False).write(paths.locate_timing(method))
    change_params(folder, methods=list(METHODS))
    monkeypatch.chdir(folder)
    return folder


def test_all_methods_are_measured_and_the_estimation_is_priced(run, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_peak_memory", _peak)
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda function: function())
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: True)
    monkeypatch.setattr(benchmark, "find_device", lambda: torch.device("cpu"))

    benchmark.main(paths=Paths())

    result = BenchmarkResult.load(Paths().benchmark)
    light, vanilla = (result.methods[method] for method in METHODS)
    assert list(result.methods) == list(METHODS)
    assert list(light.timings["training"]) == [1, 32]
    assert light.speedups["training"][32].flop_bound > 1.2
    assert light.memory.model_bytes < vanilla.memory.model_bytes
    assert light.memory_ratios["training"] == 0.5
    # 3 s + (n - 4) 0.25 s <= n 0.6 s from n = 5.7 on.
    cost = EstimationCost(seconds=3.0, training_fraction=3 / 8, break_even_steps=6)
    assert result.estimation == cost


@pytest.mark.parametrize("accelerated", [True, False])
def test_models_are_measured_as_they_were_trained(run, accelerated):
    change_params(run, finetune={"accelerate": accelerated})
    model = benchmark.load_trained_model(Paths(), "light", torch.device("cpu"))
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
    assert layers
    assert all(isinstance(layer, AcceleratedLinear) == accelerated for layer in layers)


def _peak(make_model, settings, *, device):
    """Count the parameters of the model that the stage would measure."""
    size = sum(weight.numel() for weight in make_model().parameters())
    pruned = not lightpeft.get_plan(make_model()).is_identity
    peak = 10**9 if pruned else 2 * 10**9
    return PeakMemory(
        model_bytes=size,
        phase_bytes={"training": peak, "inference": peak},
        batch_size=max(settings.batch_sizes),
        how="test",
    )
