"""What the library refuses in a stage names the keys of params.yaml, not its own arguments."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.architecture_matrix import build
from helpers.bottleneck import attach
from helpers.params_file import override_params
from helpers.stage_workspace import save_base
from helpers.tiny_models import make_tiny_model

from lightpeft.core.errors import ModelError
from pipeline.__main__ import run
from pipeline.common.library_errors import name_keys

BOTTLENECK = {"method": "bottleneck", "alpha": 16, "targets": ["qery"]}


@pytest.mark.usefixtures("in_space")
@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ("estimate", {"peft": {"targets": ["qery"]}}, "peft.targets: 'qery' is no linear of a"),
        ("estimate", {"peft": BOTTLENECK}, "peft.targets: 'qery' is no output projection of a"),
        (
            "estimate",
            {"estimate": {"lr": 1e30}},
            "step .* is not a number; lower estimate.lr, or set model.dtype: float32$",
        ),
        (
            "prune freeze",
            {"methods": ["vanilla", "freeze"], "prune": {"modules": 0.01}},
            "prune.modules must be large enough to prune one of",
        ),
        (
            "prune light",
            {"prune": {"target": {"training_speedup": 99.0}}},
            "prune.target.training_speedup must be at most",
        ),
    ],
)
def test_errors_name_keys_of_params_yaml(
    space: Path, words: str, changes: dict[str, Any], message: str
):
    with override_params(space, **changes), pytest.raises(SystemExit, match=f"^error: {message}"):
        run(*words.split())


def test_another_base_model_than_that_of_the_estimation(space: Path, cwd: Path):
    shutil.copytree(space, cwd, dirs_exist_ok=True)
    save_base(cwd, make_tiny_model(pad_token_id=0, seed=1).base_model)

    with (
        override_params(cwd, model={"name": "base"}),
        pytest.raises(
            SystemExit, match=r"the same ones as then; if model\.name has changed, run dvc"
        ),
    ):
        run("finetune", "light")


def test_a_placement_that_the_model_has_no_block_for():
    with pytest.raises(ModelError) as raised:
        attach(build("mixtral"), placement="pfeiffer")

    assert str(name_keys(raised.value)).endswith("; set peft.placement: houlsby")
