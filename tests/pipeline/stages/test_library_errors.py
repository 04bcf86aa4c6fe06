"""What the library refuses in a stage names the keys of params.yaml, not its own arguments."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.architecture_matrix import build
from helpers.bottleneck import attach
from helpers.params_file import override_params
from helpers.stage_workspace import save_base
from helpers.tiny_models import make_tiny_model

from lightpeft import BottleneckConfig
from lightpeft.core.block_shape import FeedForwardBlock
from lightpeft.core.errors import LightPeftError, ModelError, Term
from lightpeft.modeling.inspection import inspect_model
from lightpeft.peft_methods.bottleneck_targets import resolve_targets
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


def test_a_parallel_adapter_of_a_block_that_is_not_as_wide_at_both_ends():
    # No model type of transformers has such a block, but a registered family can.
    shape = inspect_model(make_tiny_model())
    block = next(block for block in shape.blocks if isinstance(block, FeedForwardBlock))
    wide = {
        path: replace(linear, inputs=40) if linear.pruned_dim == "out" else linear
        for path, linear in block.linears.items()
    }
    shape = replace(shape, blocks=(replace(block, linears=wide),))

    with pytest.raises(ModelError) as raised:
        resolve_targets(BottleneckConfig(placement="parallel"), shape)
    start = f"{block.path} turns 40 numbers into 32, but a parallel adapter needs as many outputs"
    assert str(raised.value) == f"{start} as inputs; use another placement"
    assert str(name_keys(raised.value)) == f"{start} as inputs; set another peft.placement"


@pytest.mark.parametrize("term", Term)
def test_every_term_of_the_library_is_replaced(term: Term):
    assert term not in str(name_keys(LightPeftError(f"it is wrong; {term}")))
