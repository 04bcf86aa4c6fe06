"""One kind of task through the whole pipeline, in this process: files in, metrics out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.import_graph import ROOT
from helpers.params_file import write_params
from helpers.task_files import write_rows

from lightpeft.core.benchmark_result import BenchmarkResult
from pipeline.__main__ import run
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.prediction import predict
from pipeline.prediction.predict import PredictConfig
from pipeline.stages import benchmark, estimate, evaluate, export, finetune, prepare, prune, report
from pipeline.tasks.registry import make_task

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


def write_small_params(folder: Path, **sections: dict[str, Any]) -> None:
    """Write params.yaml: the project's own, made small, for the model in `base`, with changes."""
    fixed = {"model": {"name": "base"}, "methods": list(METHODS)}
    write_params(folder, fixed, SETTINGS, sections)


def run_stages(monkeypatch: Any) -> tuple[Any, Any, pd.DataFrame]:
    """Run every stage in the current folder, but measure no memory on a CPU.

    Returns:
        The data card, and the evaluation and the predictions of the method light.
    """
    monkeypatch.setattr(benchmark, "can_measure_memory", lambda device: False)
    prepare.main(PATHS)
    estimate.main(PATHS)
    for method in load_params().methods:
        for stage in (prune, finetune, evaluate):
            stage.main(method, PATHS)
    benchmark.main(paths=PATHS)
    report.main(PATHS)
    export.main(PATHS)
    light = BenchmarkResult.load(PATHS.benchmark).methods["light"]
    assert all(speedup.median > 0 for speedup in light.speedups["training"].values())
    predictions = pd.read_csv(PATHS.locate_predictions("light"), keep_default_na=False)
    check_predict(predictions)
    return read("data/prepared/card.json"), read("results/eval/light/eval.json"), predictions


def check_predict(expected: pd.DataFrame) -> None:
    """Check that `predict` gives for the test rows without labels what `evaluate` gave for them."""
    rows = read_rows(PATHS.prepared, "test")
    names = make_task(DataCard.read(PATHS.prepared)).schema.inputs.names
    inputs = rows.select_columns([name for name in names if name in rows.column_names])
    write_rows(Path("in.jsonl"), inputs)
    card = read("data/prepared/card.json") | {"dropped": {}}
    del card["first_row"]
    assert read("artifacts/models/light/card.json") == card
    result, out = PATHS.locate_model("light"), Path("out.jsonl")
    predict.main(PredictConfig(result=result, source=Path("in.jsonl"), out=out, batch_size=16))
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["row"] for row in found] == [*range(1, len(rows) + 1)]
    if "prediction" in expected:  # else no text was generated
        for row, cell in zip(found, map(str, expected["prediction"]), strict=True):
            assert cell in _format_prediction(row)


def _format_prediction(row: dict[str, Any]) -> set[str]:
    """A prediction in the ways that a table may have it."""
    value = row["prediction"]
    if isinstance(value, list):
        return {json.dumps(value, ensure_ascii=False), " ".join(value)}
    return {str(value), row.get("choice", "")}


def read(path: str) -> Any:
    """A JSON file that a stage wrote in the current folder."""
    return json.loads(Path(path).read_text())


def check_error_here(folder: Path, *words: str, message: str) -> None:
    """Check that a command of the pipeline, in this process, ends with one line."""
    with chdir(folder), pytest.raises(SystemExit) as caught:
        run(*words)
    assert str(caught.value).startswith(f"error: {message}")
    assert "\n" not in str(caught.value)


def check_error(folder: Path, *words: str, message: str) -> None:
    """Check that a command of the pipeline, in a process of its own, ends with one line."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
