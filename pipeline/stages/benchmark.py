"""Stage `benchmark`: the fine-tuned models -> time and memory of all, side by side.

Batches are rows of `benchmark.length` random tokens without padding: speed does not depend on
what they say. On a CPU, memory is measured by this module again, in a process per method.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from lightpeft.profiling.compare import compare
from lightpeft.profiling.memory import can_measure_memory, measure_peak_memory, run_in_subprocess
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import estimation_cost
from lightpeft.pruning import checkpoint
from pipeline.common.console import device, say
from pipeline.common.data_card import DataCard
from pipeline.common.files import read_json, write_json
from pipeline.common.params import Params, load_params
from pipeline.common.paths import Paths
from pipeline.tasks.base import Kind
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import kind_of


def main(method: str = "", *, paths: Paths) -> None:
    """Measure all methods; given one, print its peak memory as a line of JSON."""
    transformers.logging.set_verbosity_error()
    params = load_params(paths.params)
    place = device()
    kind = kind_of(DataCard.read(paths.prepared))
    builds = {
        name: partial(trained_model, params, kind, paths.model(name), place)
        for name in params.methods
    }
    settings = ProfilingSettings(**params.benchmark.model_dump())
    if method:
        print(json.dumps(measure_peak_memory(builds[method], settings, device=place)))
        return

    def memory(method: str) -> dict[str, Any]:
        if place.type == "cuda":
            return measure_peak_memory(builds[method], settings, device=place)
        stage = [sys.executable, "-m", "pipeline", "benchmark"]
        return run_in_subprocess([*stage, method])

    found = compare(
        builds,
        settings,
        memory=memory if can_measure_memory(place) else None,
        progress=partial(say, "benchmark"),
    )
    finetune = {method: read_json(paths.timing(method)) for method in builds}
    found["estimate"] = estimation_cost(read_json(paths.estimate_timing), finetune)
    write_json(paths.benchmark, found)
    for method, ratio in found["ratios"].items():
        for rows, gain in ratio["training_speedup"].items():
            say("benchmark", f"{method}: training {gain['median']:.2f}x with batches of {rows}")


def trained_model(params: Params, kind: Kind, folder: Path, place: torch.device) -> PeftModel:
    """What fine-tuning left, ready to be trained on."""
    base, _ = load_model(params.model, kind, params.seed)
    return checkpoint.load(base, folder, trainable=True).to(place)
