"""One kind of task through the whole pipeline, in this process: files in, metrics out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers.params_file import write_params
from transformers import PreTrainedModel

from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.stages import benchmark, estimate, evaluate, finetune, prepare, prune, report

METHODS = ("light", "vanilla")
PATHS = Paths()
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"task": "files", "max_length": 32},
    "peft": {"r": 4, "alpha": 8},
    "estimate": {"steps": 4, "batch_size": 8},
    "prune": {"align": 4},
    "finetune": {"steps": 24, "batch_size": 8, "lr": 0.01, "evaluate_every": 10},
    "evaluate": {"batch_size": 16, "bootstrap": 20},
    "benchmark": {"batch_sizes": [2], "length": 16, "warmup": 0, "rounds": 3},
}


def params(folder: Path, **sections: dict[str, Any]) -> None:
    """Write params.yaml: the project's own, made small, for the model in `base`, with changes."""
    fixed = {"model": {"name": "base"}, "methods": list(METHODS)}
    write_params(folder, fixed, SETTINGS, sections)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save the body of a model, as pretrained ones come: without a head."""
    torch.manual_seed(0)
    model.base_model.save_pretrained(folder / "base")


def run_stages(monkeypatch: Any) -> None:
    """Every stage, in the current folder, but memory on a CPU."""
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: False)
    prepare.main(PATHS)
    estimate.main(PATHS)
    for method in load_params().methods:
        for stage in (prune, finetune, evaluate):
            stage.main(method, PATHS)
    benchmark.main(paths=PATHS)
    report.main(PATHS)


def read(path: str) -> Any:
    """A JSON file that a stage wrote in the current folder."""
    return json.loads(Path(path).read_text())


def predictions(method: str = "light") -> pd.DataFrame:
    """The rows of the test split, with what the model said."""
    return pd.read_csv(PATHS.predictions(method), keep_default_na=False)
