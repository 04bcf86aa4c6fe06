"""The settings of bottleneck adapters, and the projections that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.architecture_matrix import build
from helpers.bottleneck import attach, find_layers
from helpers.tiny_models import make_tiny_model

from lightpeft import BottleneckConfig
from lightpeft.core.errors import ConfigError, ModelError

FFN, ATTENTION = "bert.encoder.layer.0.output.dense", "bert.encoder.layer.0.attention.output.dense"
FIRST = "bert.encoder.layer.0.intermediate.dense"


def test_targets_choose_among_the_output_projections():
    ends = find_layers(attach(make_tiny_model(), target_modules=["attention.output.dense"]))
    regex = find_layers(attach(make_tiny_model(), target_modules=r".*\.0\..*"))

    assert len(ends) == 3
    assert all(name.endswith("attention.output.dense") for name in ends)
    assert [*regex] == [ATTENTION, FFN]
    message = r"BottleneckConfig\.target_modules: 'query' is no output projection of a bert block"
    with pytest.raises(ModelError, match=message):
        attach(make_tiny_model(), target_modules=["query"])


def test_a_model_without_dense_feed_forward_blocks_is_refused():
    with pytest.raises(ModelError, match=r"mixtral model has no dense feed-forward .* use houlsby"):
        attach(build("mixtral"), placement="pfeiffer")
    assert len(find_layers(attach(build("mixtral")))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, r"BottleneckConfig\.r must be an integer >= 1, got 0"),
        ({"r": True}, r"\.r must be an integer >= 1, got True"),
        ({"rank_pattern": {"a": -1}}, r"rank_pattern\['a'\] must be an integer >= 1, got -1"),
        (
            {"placement": "lora"},
            r"placement must be one of houlsby, pfeiffer, parallel, got",
        ),
        ({"non_linearity": "prelu"}, r"non_linearity must be one of relu, .*, got 'prelu'"),
        ({"scaling": float("nan")}, r"scaling must be a number, got nan"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        BottleneckConfig(**settings)


def test_the_saved_config_is_plain_and_names_what_is_read(tmp_path: Path):
    attach(make_tiny_model(), placement="parallel").save_pretrained(tmp_path)

    saved = json.loads((tmp_path / "adapter_config.json").read_text())

    assert saved["peft_type"] == "LIGHTPEFT_BOTTLENECK"
    assert saved["block_inputs"][FFN] == FIRST
