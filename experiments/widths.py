"""Measure how the time of a linear depends on the largest power of two that divides its width.

    python -m experiments.widths --out experiments/results/widths-cpu.json

For each power of two, widths that it divides, and twice it does not, are measured in turns: the
time of a linear to this width and back, per column. Above 1 is what another width would cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from lightpeft.core.serialization import write_json
from lightpeft.profiling.devices import read_device_name
from lightpeft.profiling.timing import synchronize_fn, time_interleaved

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def list_widths(power: int, *, near: int, count: int) -> list[int]:
    """Return widths around a number that a power of two divides, and twice that power does not."""
    nearest = near // power
    odd = sorted(range(1, 2 * nearest + 2, 2), key=lambda factor: abs(factor - nearest))
    return sorted(power * factor for factor in odd[:count])


def measure(
    widths: list[int], *, hidden: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> dict[int, float]:
    """Return the median seconds of a linear to each width and back, without gradients."""
    inputs = torch.randn(tokens, hidden).to(device, dtype)
    steps: dict[str, Callable[[], Any]] = {}
    for width in widths:
        pair = nn.Sequential(nn.Linear(hidden, width), nn.Linear(width, hidden))
        steps[str(width)] = partial(_run, pair.to(device, dtype), inputs)
    seconds = time_interleaved(steps, warmup=3, rounds=20, synchronize=synchronize_fn(device))
    return {width: statistics.median(seconds[str(width)]) for width in widths}


def _run(module: nn.Module, inputs: torch.Tensor) -> None:
    with torch.inference_mode():
        module(inputs)


def summarize(seconds: dict[int, float]) -> dict[int, float]:
    """Return the time per column by power of two, relative to the fastest power's."""
    per_column: dict[int, list[float]] = {}
    for width, value in seconds.items():
        per_column.setdefault(min(width & -width, POWERS[-1]), []).append(value / width)
    means = {power: statistics.mean(values) for power, values in sorted(per_column.items())}
    best = min(means.values())
    return {power: value / best for power, value in means.items()}


def main(
    near: Annotated[int, typer.Option(min=128, help="Widths are around this.")] = 1024,
    hidden: Annotated[int, typer.Option(min=1)] = 384,
    tokens: Annotated[int, typer.Option(min=1)] = 1024,
    dtype: Annotated[str, typer.Option(help=", ".join(_DTYPES))] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    count: Annotated[int, typer.Option(min=1, help="Widths for each power of two.")] = 3,
    out: Annotated[Path | None, typer.Option(help="File for the record.")] = None,
) -> None:
    """Print a Markdown table, and write the record."""
    target = torch.device(device)
    widths = [width for power in POWERS for width in list_widths(power, near=near, count=count)]
    seconds = measure(
        sorted({*widths}), hidden=hidden, tokens=tokens, dtype=_DTYPES[dtype], device=target
    )
    relative = summarize(seconds)
    print("| largest power of two that divides the width | time per column |\n|---:|---:|")
    for power, value in relative.items():
        print(f"| {power} | {value:.2f} |")
    if out is not None:
        record = {
            "device": read_device_name(target),
            "torch": torch.__version__,
            "settings": {"hidden": hidden, "tokens": tokens, "dtype": dtype, "near": near},
            "seconds": seconds,
            "relative_time_per_column": relative,
        }
        write_json(out, record)


if __name__ == "__main__":
    typer.run(main)
