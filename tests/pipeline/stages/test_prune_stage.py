"""What each method asks of `make_plan`."""

from dataclasses import replace

import pytest
import torch
from helpers.import_graph import ROOT
from helpers.made_up_scores import make_scores
from helpers.params_file import override_params
from helpers.tiny_models import draw_random_scores, estimate_tiny_scores, make_tiny_model

from lightpeft.core.config import PruningConfig, PruningTarget
from lightpeft.planning.make_plan import make_plan
from lightpeft.planning.widths import choose_align
from pipeline.common.errors import ConfigError
from pipeline.common.params import BatchSection
from pipeline.common.paths import Paths
from pipeline.common.prune_section import PruneSection, TargetSection
from pipeline.common.pruning_params import PruneParams, load_params
from pipeline.stages.prune import count_plan_cost, main, make_cost_model, make_method_plan


@pytest.fixture
def section() -> PruneSection:
    """The project's own settings."""
    return load_params(ROOT / "params.yaml").prune


def go_by_measurements(section: PruneSection) -> PruneSection:
    """The section with a speed-up that a latency table predicts."""
    target = TargetSection(inference_speedup=1.2)
    return section.model_copy(update={"cost": "measured", "target": target})


def test_heads_and_neurons_follow_the_ratio_unless_set_themselves(section):
    changed = section.model_copy(update={"ratio": 0.5, "neurons": 0.25})

    assert changed.make_config("light", seed=0, decoder=False).heads == 0.5
    assert changed.make_config("light", seed=0, decoder=False).neurons == 0.25


@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_a_baseline_cuts_as_much_as_light_by_its_own_criterion(section, method):
    light, other = (section.make_config(name, seed=3, decoder=False) for name in ("light", method))

    assert other == light.model_copy(update={"criterion": method})


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio": 0.9},
        {"criterion": "mask"},
        {"align": 1},
        {"module_criterion": "importance"},
        {"head_granularity": "query_head"},
    ],
)
def test_no_setting_changes_the_plan_that_cuts_nothing(section, changes):
    scores = make_scores()
    plan = make_plan(scores, section.make_config("vanilla", seed=0, decoder=False))
    changed = section.model_copy(update=changes)
    again = make_plan(scores, changed.make_config("vanilla", seed=0, decoder=False))

    assert plan.is_identity
    assert plan == again


def test_the_cost_table_falls_in_every_part_that_is_cut(section):
    scores = estimate_tiny_scores(make_tiny_model())
    table = count_plan_cost(
        make_plan(scores, PruningConfig(heads=0.5, neurons=0.5, modules=0, ranks=0.5)), scores
    )
    before, after = table.before, table.after

    for part in ("attention", "feed_forward", "adapter", "total"):
        for column, value in after[part].model_dump().items():
            unpruned = getattr(before[part], column)
            assert value < unpruned or unpruned == 0
    assert before["embeddings"] == after["embeddings"]


def test_what_is_auto_goes_by_the_kind_of_model(section):
    encoder, decoder = (section.make_config("light", seed=0, decoder=d) for d in (False, True))

    assert (encoder.heads, encoder.neurons, encoder.modules) == (0.3333, 0.3333, 0.25)
    assert (decoder.heads, decoder.neurons, decoder.modules) == (0.0, 0.1, 0.0)
    assert (encoder.criterion, decoder.criterion) == ("taylor", "energy")
    changed = section.model_copy(update={"layers": 0.1, "modules": 0.2})
    for is_decoder in (False, True):
        config = changed.make_config("light", seed=0, decoder=is_decoder)
        assert (config.layers, config.modules) == (0.1, 0.2)


def test_a_target_decides_what_is_auto_for_every_method_that_prunes(section):
    target = section.target.model_copy(update={"training_speedup": 1.3})
    changed = section.model_copy(update={"target": target, "modules": 0.25})
    scores = draw_random_scores(make_tiny_model())

    plans = {
        method: make_method_plan(method, scores, changed.make_config(method, seed=0, decoder=False))
        for method in ("light", "random", "vanilla", "small", "freeze")
    }

    light, random = plans["light"].settings, plans["random"].settings
    assert light["target"]["predicted"] >= 1.3
    assert light["modules"] == 0.25
    assert (light["heads"], light["neurons"]) == (random["heads"], random["neurons"]) != (0, 0)
    assert plans["vanilla"].is_identity
    for method in ("vanilla", "small", "freeze"):
        assert "target" not in plans[method].settings
    modules = [
        sum(bool(x.kept) for x in plans[name].ranks.values()) for name in ("light", "freeze")
    ]
    assert modules[0] == modules[1]


def test_freeze_with_a_target_must_be_told_how_many_modules(section):
    target = section.target.model_copy(update={"parameters": 0.9})
    changed = section.model_copy(update={"target": target})

    with pytest.raises(ConfigError, match=r"^prune\.modules must be a number .*, got auto"):
        changed.make_config("freeze", seed=0, decoder=False)


def test_an_unreachable_target_is_named_as_in_params(space, in_space):
    with override_params(space, prune={"target": {"training_speedup": 1000.0}}):
        with pytest.raises(ConfigError, match=r"^prune\.target\.training_speedup must be at most"):
            main("light", Paths())


def test_a_measured_target_goes_by_one_table_for_all_methods(section, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    target = PruningTarget(inference_speedup=1.2)
    prune = go_by_measurements(section)
    params = PruneParams(prune=prune, benchmark=BatchSection(batch_sizes=[2, 4], length=8))
    scores = draw_random_scores(make_tiny_model(num_hidden_layers=2))

    first, second = (make_cost_model(params, scores, target) for _ in range(2))

    assert first == second
    assert first.latency is not None
    assert (first.rows, first.latency.rows, first.latency.length) == (4, 4, 8)
    assert len([*tmp_path.glob("checkpoints/latency-*.json")]) == 1
    flops = params.model_copy(update={"prune": prune.model_copy(update={"cost": "flops"})})
    assert make_cost_model(flops, scores, target).latency is None


def test_a_table_is_measured_only_for_a_target_and_for_one_head(section, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    prune = go_by_measurements(section)
    params = PruneParams(prune=prune, benchmark=BatchSection(batch_sizes=[2], length=8))
    scores = draw_random_scores(make_tiny_model(num_hidden_layers=1))
    assert make_cost_model(params, scores, None).latency is None
    assert not (tmp_path / "checkpoints").exists()

    heads = []
    for vocabulary in (0, 500):
        shape = replace(scores.shape, matmul_weights={"lm": vocabulary * 32})
        changed = replace(scores, shape=shape)
        model = make_cost_model(params, changed, PruningTarget(training_speedup=1.2))
        heads.append(model.latency.head[1])

    assert heads[0] == 0 < heads[1]


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.float32, 8),
        ("cpu", torch.bfloat16, 8),
        ("cuda", torch.float32, 8),
        ("cuda", torch.bfloat16, 64),
        ("cuda", torch.float16, 64),
    ],
)
def test_widths_go_by_the_device_unless_they_are_set(section, device, dtype, expected):
    align = choose_align(dtype, torch.device(device))
    config = section.make_config("light", seed=0, decoder=False, align=align)
    set_config = section.model_copy(update={"align": 32}).make_config(
        "light", seed=0, decoder=False, align=align
    )

    assert (config.align, set_config.align) == (expected, 32)
    plan = make_plan(make_scores(neurons=256), config)
    assert {len(x.kept) % expected for x in plan.neurons.values()} == {0}
