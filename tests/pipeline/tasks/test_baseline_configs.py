"""Settings of peft's own methods are checked before a stage reads or writes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.params_file import write_params

from pipeline.__main__ import STAGES, run
from pipeline.common.methods import STOCK_PEFT
from pipeline.common.pruning_params import Params
from pipeline.tasks.baseline_configs import check_baselines


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_checks_them_first(cwd: Path, stage: str):
    write_params(cwd, {"baselines": {"ia3": {"target_module": ["query"]}}})
    method = ["light"] if stage in ("prune", "finetune", "evaluate") else []

    message = "params.yaml: unknown key baselines.ia3.target_module; did you mean baselines.ia3."
    with pytest.raises(SystemExit, match=f"^error: {message}[a-z_]+[?]$"):
        run(stage, *method)
    assert [path.name for path in cwd.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["vanilla", "peft:adalora"]},
        {"baselines": {"adalora": {"lr": 1e-3, "total_step": 0}}},
    ],
)
def test_a_value_that_peft_refuses_is_one_line(cwd: Path, changes: dict[str, Any]):
    write_params(cwd, changes)

    with pytest.raises(SystemExit, match=r"^error: params.yaml: baselines.adalora: .*total_step"):
        run("prepare")


def test_what_peft_accepts_passes():
    methods = ["vanilla", "full", *(f"peft:{name}" for name in STOCK_PEFT)]
    baselines = {"full": {"lr": 1e-4}, "ia3": {"lr": 1e-3}, "adalora": {"total_step": 9}}

    check_baselines(Params(methods=methods, baselines=baselines))
