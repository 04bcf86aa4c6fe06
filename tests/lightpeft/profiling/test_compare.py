from functools import partial

import pytest
from helpers.architecture_matrix import build
from helpers.architectures import LLAMA
from helpers.tiny_models import draw_random_scores, estimate_tiny_scores, make_tiny_model
from peft import IA3Config, get_peft_model

import lightpeft
from lightpeft.core.benchmark_result import BenchmarkResult, PeakMemory
from lightpeft.core.config import PruningConfig
from lightpeft.profiling.compare import compare
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.workload import compute_plan_cost

SETTINGS = ProfilingSettings(batch_sizes=[1, 3], length=8, warmup=1, rounds=3)


def _pruned(ratio):
    model = make_tiny_model()
    scores = estimate_tiny_scores(model, steps=2)
    pruning = PruningConfig(heads=ratio, neurons=ratio, modules=0.0, ranks=0.0)
    plan = lightpeft.make_plan(scores, pruning)
    return lightpeft.prune(model, plan, scores)


def _peak(training, inference):
    phases = {"training": training, "inference": inference}
    return PeakMemory(model_bytes=200, phase_bytes=phases, batch_size=3, how="test")


def test_models_are_compared_in_time_memory_and_flops(tmp_path):
    factories = {"vanilla": partial(_pruned, 0.0), "light": partial(_pruned, 0.5)}
    memory = {"vanilla": _peak(800, 400), "light": _peak(600, 300)}
    progress = []

    result = compare(
        factories, SETTINGS, measure_memory=memory.__getitem__, progress=progress.append
    )

    result.save(tmp_path / "result.json")
    assert BenchmarkResult.load(tmp_path / "result.json") == result
    plans = {name: lightpeft.get_plan(make_model()) for name, make_model in factories.items()}
    costs = {name: compute_plan_cost(plan, length=8).total for name, plan in plans.items()}
    light, vanilla = result.methods["light"], result.methods["vanilla"]
    assert light.total_parameters == costs["light"].parameters
    assert light.base_parameters < vanilla.base_parameters
    assert light.memory == memory["light"]
    assert light.memory_ratios == {"training": 0.75, "inference": 0.75}
    for phase in ("training", "inference"):
        flops = [getattr(costs[name], f"{phase}_flops_per_token") for name in factories]
        assert list(light.timings[phase]) == list(light.speedups[phase]) == [1, 3]
        for batch_size, timing in light.timings[phase].items():
            speedup = light.speedups[phase][batch_size]
            assert timing.q1_s <= timing.median_s <= timing.q3_s
            assert timing.tokens_per_s == batch_size * 8 / timing.median_s
            assert speedup.flop_bound == flops[0] / flops[1]
            assert speedup.fraction_of_flop_bound == speedup.median / speedup.flop_bound
            assert speedup.byte_bound is None
            assert vanilla.speedups[phase][batch_size].median == 1
    assert progress[:2] == ["memory of vanilla", "memory of light"]


@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "IA3"])
def test_a_decoder_without_a_plan_is_compared_too(adapted):
    def make_other():
        model = build(LLAMA).requires_grad_(True)
        return get_peft_model(model, IA3Config(task_type="CAUSAL_LM")) if adapted else model

    def make_vanilla():
        model = build(LLAMA)
        scores = draw_random_scores(model, task_type="CAUSAL_LM")
        zero = PruningConfig(heads=0, neurons=0, modules=0, ranks=0)
        return lightpeft.prune(model, lightpeft.make_plan(scores, zero), scores)

    factories = {"vanilla": make_vanilla, "other": make_other}
    settings = ProfilingSettings(batch_sizes=[2], length=8, warmup=0, rounds=3)
    result = compare(factories, settings, measure_memory=None)

    other, vanilla = result.methods["other"], result.methods["vanilla"]
    assert list(other.timings) == ["training", "prefill", "decode"]
    assert all(other.speedups[phase][2].flop_bound is None for phase in other.timings)
    assert other.speedups["decode"][2].byte_bound >= 1
    assert other.kv_cache_ratios == {2: 1.0}
    assert other.base_parameters == (vanilla.base_parameters if adapted else 0)
    assert other.total_parameters == other.base_parameters + other.trainable_parameters


@pytest.mark.parametrize(
    ("memory", "ratios"),
    [
        (lambda method: _peak(400, 190), {"training": 1.0, "inference": None}),
        (None, {"training": None, "inference": None}),
    ],
    ids=["less than the weights", "not measured"],
)
def test_memory_that_says_nothing_has_no_ratio(memory, ratios):
    result = compare({"vanilla": partial(_pruned, 0.0)}, SETTINGS, measure_memory=memory)

    assert result.methods["vanilla"].memory_ratios == ratios
    assert (result.methods["vanilla"].memory is None) == (memory is None)
