"""What can't be trained is told before the estimation loads a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.params_file import write_params

from pipeline.__main__ import run
from pipeline.common import training_checks
from pipeline.common.paths import Paths
from pipeline.stages import estimate


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Paths]:
    """The estimations that were started, none of which does anything."""
    calls: list[Paths] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "main", lambda paths: calls.append(paths))
    return calls


@pytest.mark.parametrize(
    ("finetune", "variables", "line"),
    [
        (
            {"optimizer": "adamw_8bit"},
            {},
            "finetune.optimizer: adamw_8bit needs bitsandbytes, which is not installed: pip ",
        ),
        (
            {"batch_size": 15},
            {"LIGHTPEFT_PROCESSES": "2"},
            "finetune.batch_size must be a multiple of the number of processes, 2, got 15",
        ),
        (
            {"cache_frozen": True},
            {"LIGHTPEFT_PROCESSES": "2"},
            "finetune.cache_frozen must be false with 2 processes, got true",
        ),
        ({}, {"LIGHTPEFT_SHARD": "1"}, "LIGHTPEFT_SHARD=1 needs several processes; set LIGHTPEFT"),
        ({}, {"LIGHTPEFT_SHARD": "yes"}, "LIGHTPEFT_SHARD must be 0 or 1, got yes"),
    ],
)
def test_what_finetune_would_refuse_is_refused_before_the_estimation(
    started, tmp_path, monkeypatch, finetune, variables, line
):
    monkeypatch.setattr(training_checks, "find_spec", lambda name: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    write_params(tmp_path, {"finetune": finetune})

    with pytest.raises(SystemExit, match=f"^error: {line}"):
        run("estimate")

    assert not started


def test_what_can_be_trained_starts(started, tmp_path):
    write_params(tmp_path, {"finetune": {"cache_frozen": True, "batch_size": 15}})

    run("estimate")

    assert len(started) == 1
