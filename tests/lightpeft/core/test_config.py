"""Settings of estimation and pruning: defaults, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.import_graph import ROOT

from lightpeft.core.config import EstimationConfig, PruningConfig
from lightpeft.core.errors import ConfigError
from pipeline.common.pruning_params import load_params


@pytest.mark.parametrize("name", ["heads", "neurons", "modules", "ranks"])
@pytest.mark.parametrize("ratio", [1, 1.2, -0.1, float("nan"), float("inf"), True, "0.3", None])
def test_ratio_outside_its_bounds_is_refused(name: str, ratio: object):
    with pytest.raises(ConfigError, match=rf"^{name} must be in \[0, 1\), got {ratio!r}$"):
        PruningConfig(**{name: ratio})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"criterion": "tailor"}, "criterion must be one of mask, .*, random, got 'tailor'"),
        ({"module_criterion": "size"}, "module_criterion must be one of importance, depth, got"),
        ({"head_granularity": "group"}, "head_granularity must be one of kv_group, query_head, g"),
        ({"neuron_scope": "all"}, "neuron_scope must be one of global, layer, got 'all'"),
        ({"align": 0}, "align must be an integer >= 1, got 0"),
        ({"align": 8.0}, r"align must be an integer >= 1, got 8\.0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"head_unit": "group"}, "head_unit is now head_granularity$"),
        ({"module_order": "depth"}, "module_order is now module_criterion$"),
        ({"head": 0.5}, r"unknown argument head; did you mean heads\?"),
        ({"x": 1}, "unknown argument x; known: layers, heads, neurons, "),
    ],
)
def test_wrong_pruning_setting_is_one_line(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        PruningConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 1}, "steps must be an integer >= 2, got 1"),
        ({"lr": 0}, "lr must be a number > 0, got 0"),
        ({"mask_lr": -1.0}, r"mask_lr must be None or a number > 0, got -1\.0"),
        ({"l1": float("nan")}, "l1 must be a number >= 0, got nan"),
        ({"reduction": "max"}, "reduction must be one of sum, mean, got 'max'"),
    ],
)
def test_wrong_estimation_setting_is_one_line(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        EstimationConfig(**values)


def test_defaults_are_those_of_params_yaml():
    params = load_params(ROOT / "params.yaml")

    values, of_params = EstimationConfig().model_dump(), params.estimate.model_dump()
    assert {name: of_params[name] for name in values} == values
    assert params.prune.make_config("light", seed=0, decoder=False) == PruningConfig()


def test_a_config_cannot_be_changed():
    config = PruningConfig()

    with pytest.raises(ValueError, match="frozen"):
        config.heads = 0.5


def test_the_package_and_its_configs_need_no_torch():
    program = (
        "import sys, lightpeft; lightpeft.PruningConfig()\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
