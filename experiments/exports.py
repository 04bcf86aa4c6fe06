"""Measure size and inference time of a result in every format that it can be exported in.

    dvc repro && python -m experiments.exports

Exports artifacts/models/light of the current folder into a temporary one, loads each export as
its readers do, and times them in turns on one random batch. Vanilla is beside them.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import lightpeft
from lightpeft.core.errors import PlanError
from lightpeft.exporting.record import ADAPTER_FORMATS, FORMATS
from lightpeft.exporting.reload import ONNX_FILE
from lightpeft.profiling.random_batches import make_random_batch
from lightpeft.profiling.timing import time_interleaved
from pipeline.common.data_card import DataCard
from pipeline.common.params import ExportParams
from pipeline.common.paths import Paths
from pipeline.tasks.model_loading import load_model
from pipeline.tasks.registry import make_task

_ONE_READER = {
    "compact": "lightpeft",
    "merged": "lightpeft",
    "lifted": "peft",
    "onnx": "onnxruntime",
}


def main(
    rows: Annotated[int, typer.Option(min=1)] = 32,
    length: Annotated[int, typer.Option(min=1)] = 32,
    rounds: Annotated[int, typer.Option(min=1)] = 60,
) -> None:
    """Print a Markdown table of the formats."""
    paths, sizes, steps = Paths(), dict[str, int](), dict[str, Callable[[], Any]]()
    vanilla = lightpeft.load(_load_base(paths), paths.locate_model("vanilla"))
    light = lightpeft.load(_load_base(paths), paths.locate_model("light"))
    batch = make_random_batch(light, batch_size=rows, length=length)
    del batch["labels"]
    steps["vanilla"] = _make_step(vanilla, batch)
    merged = copy.deepcopy(vanilla).merge_and_unload()
    steps["vanilla, merged"] = _make_step(merged, batch)
    with tempfile.TemporaryDirectory() as parent:
        for name in FORMATS:
            folder, base = Path(parent) / name, None
            if name in ADAPTER_FORMATS:
                base = _load_base(paths)
            try:
                lightpeft.export(light, folder, format=name, base=base)
            except PlanError as error:
                print(f"{error}\n")
                continue
            sizes[name] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            steps[name] = _load_step(name, folder, paths, batch)
        seconds = time_interleaved(steps, warmup=3, rounds=rounds)
    print("| format | loaded by | size, MB | seconds a batch | speed-up over vanilla LoRA |")
    print("|---|---|---:|---:|---:|")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["vanilla"], times, strict=True)]
        q1, median, q3 = statistics.quantiles(ratios, n=4)
        size = f"{sizes[name] / 1e6:.1f}" if name in sizes else ""
        reader = _ONE_READER.get(name, "transformers" if name in sizes else "")
        print(
            f"| {name} | {reader} | {size} | {statistics.median(times):.4f} "
            f"| {median:.2f}x ({q1:.2f} to {q3:.2f}) |"
        )


def _load_base(paths: Paths) -> Any:
    params, task = ExportParams.load(paths.params), make_task(DataCard.read(paths.prepared))
    return load_model(params.model, task, params.seed)[0]


def _load_step(name: str, folder: Path, paths: Paths, batch: dict[str, Any]) -> Callable[[], Any]:
    if name == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Its threads would spin on after a step, and slow down the next one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(folder / ONNX_FILE, options)
        arrays = {x.name: batch[x.name].numpy() for x in session.get_inputs()}
        return lambda: session.run(None, arrays)
    if name == "compact":
        model: Any = lightpeft.load(_load_base(paths), folder)
    elif name == "lifted":
        model = PeftModel.from_pretrained(_load_base(paths), folder)
    elif name == "merged":
        model = lightpeft.from_pretrained(folder)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    return _make_step(model, batch)


def _make_step(model: Any, batch: dict[str, Any]) -> Callable[[], Any]:
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(**batch)

    return step


if __name__ == "__main__":
    typer.run(main)
