"""A workspace for stages that several processes share, and what they wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.stage_workspace import set_params, write_workspace

import lightpeft
from lightpeft import PruningConfig
from lightpeft.core.scores import Scores
from pipeline.common.paths import Paths
from pipeline.stages import estimate

PATHS = Paths()
WEIGHTS = "adapter_model.safetensors"


def enter_quiet_workspace(folder: Path, patch: pytest.MonkeyPatch, **training: Any) -> Path:
    """A workspace for `finetune`, as the current folder, without dropout, and with its estimation.

    Each process would draw a dropout of its own.
    """
    patch.chdir(folder)
    patch.delenv("DVC_ROOT", raising=False)
    write_workspace(folder)
    config = folder / "base" / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(json.loads(config.read_text()) | without))
    set_params(
        folder,
        peft={"dropout": 0.0},
        estimate={"steps": 4, "batch_size": 8},
        finetune={"batch_size": 8} | training,
    )
    estimate.main(PATHS)
    config = PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.25)
    lightpeft.make_plan(Scores.load(PATHS.scores), config).save(PATHS.locate_plan("light"))
    return folder


def read_curve() -> list[dict[str, float]]:
    """The curve that `finetune light` wrote."""
    with (PATHS.locate_model("light") / "curve.csv").open(newline="") as file:
        return [
            {name: float(cell) for name, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]
