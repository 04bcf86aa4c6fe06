"""Compare the predicted memory of training with that of tensors that hold no data.

    python -m experiments.memory [SHAPE]...

Each shape is trained for two steps under torch's FakeTensorMode, which takes no memory and ten to
forty CPU seconds, unpruned and with a third of heads and neurons pruned: base weights in bfloat16,
LoRA of rank 8 on all linears, `lightpeft.accelerate`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lightpeft.benchmark.fake_models import make_benchmark_plan, track_fake_training
from lightpeft.benchmark.run import BenchmarkConfig
from lightpeft.core.library_warnings import ignore_peft_deprecation
from lightpeft.planning.memory_cost import predict_training_memory

RESULTS = Path("experiments/results/memory")
BATCHES = {
    "roberta-large": (32, 128),
    "opt-1.3b": (32, 128),
    "opt-6.7b": (16, 128),
    "llama-2-7b": (16, 128),
    "qwen3-8b": (16, 256),
}


def measure(config: BenchmarkConfig, method: str) -> dict[str, float]:
    """Return bytes predicted and tracked, and by what fraction the prediction is off."""
    plan = make_benchmark_plan(config, method)
    rest = plan.without_layers
    predicted = predict_training_memory(
        rest.shape,
        rest.counts,
        tokens=max(config.batch_sizes) * config.profiling.length,
        width=config.torch_dtype.itemsize,
    ).peak
    tracked = track_fake_training(config, plan)
    return {
        "predicted": predicted,
        "tracked": tracked,
        "error": round(predicted / tracked - 1, 4),
    }


def main(shapes: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Print and record predicted and tracked bytes, and the error, of each shape."""
    RESULTS.mkdir(exist_ok=True)
    for shape in shapes or BATCHES:
        rows, length = BATCHES[shape]
        config = BenchmarkConfig(
            shape=shape,
            ratio=0.333,
            dtype="bfloat16",
            batch_sizes=(rows,),
            length=length,
            accelerate=True,
        )
        record = {method: measure(config, method) for method in ("vanilla", "pruned")}
        text = json.dumps({"rows": rows, "length": length, **record}, indent=1)
        (RESULTS / f"{shape}.json").write_text(text + "\n", encoding="utf-8")
        for method, result in record.items():
            typer.echo(
                f"{shape} {rows} x {length} {method}: predicted {result['predicted'] / 1e9:.2f} GB,"
                f" tracked {result['tracked'] / 1e9:.2f} GB, {result['error']:+.1%}"
            )


if __name__ == "__main__":
    ignore_peft_deprecation()
    typer.run(main)
