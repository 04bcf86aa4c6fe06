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
from lightpeft.profiling.memory import in_fresh_process, measurable, peak_memory
from lightpeft.profiling.settings import ProfilingSettings
from lightpeft.profiling.speedup import estimation
from lightpeft.pruning import checkpoint
from pipeline.common.console import device, say
from pipeline.common.data_card import read_card
from pipeline.common.errors import ConfigError
from pipeline.common.files import read_json, write_json
from pipeline.common.params import Params, load_params
from pipeline.tasks.base import Kind
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import kind_of


def main(prepared: str, timing: str, models: str, out: str, only: str = "") -> None:
    """Measure all methods; with `only`, write the memory of that one as a line of JSON."""
    transformers.logging.set_verbosity_error()
    params = load_params()
    place = device()
    if only and only not in params.methods:
        raise ConfigError(f"ONLY must be one of {', '.join(params.methods)}, got {only!r}")
    kind = kind_of(read_card(Path(prepared)))
    builds = {
        method: partial(trained_model, params, kind, Path(models) / method, place)
        for method in params.methods
    }
    settings = ProfilingSettings(**params.benchmark.model_dump())
    if only:
        print(json.dumps(peak_memory(builds[only], settings, device=place)))
        return

    def memory(method: str) -> dict[str, Any]:
        if place.type == "cuda":
            return peak_memory(builds[method], settings, device=place)
        stage = [sys.executable, "-m", "pipeline", "benchmark"]
        return in_fresh_process([*stage, prepared, timing, models, out, method])

    found = compare(
        builds,
        settings,
        memory=memory if measurable(place) else None,
        progress=partial(say, "benchmark"),
    )
    finetune = {method: read_json(Path(models) / method / "timing.json") for method in builds}
    found["estimate"] = estimation(read_json(Path(timing)), finetune)
    write_json(Path(out), found)
    for method, ratio in found["ratios"].items():
        for rows, gain in ratio["training_speedup"].items():
            say("benchmark", f"{method}: training {gain['median']:.2f}x with batches of {rows}")


def trained_model(params: Params, kind: Kind, folder: Path, place: torch.device) -> PeftModel:
    """What fine-tuning left, ready to be trained on."""
    base, _ = load_model(params.model, kind, params.seed)
    return checkpoint.load(base, folder, trainable=True).to(place)
