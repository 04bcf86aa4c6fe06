"""The numbers behind the figures, as rows: what DVC plots draw, and what the PNGs draw."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from pipeline.report.run_results import Outcome

Rows = list[dict[str, Any]]
ESTIMATE = "estimate"


def all_series(outcome: Outcome) -> dict[str, Rows]:
    """Name of each CSV -> its rows."""
    return {
        "training": training(outcome),
        "kept": kept(outcome),
        "ranks": ranks(outcome),
        "speed": speed(outcome),
    }


def training(outcome: Outcome) -> Rows:
    """Loss per step of the early phase and of every method."""
    early = [(ESTIMATE, row["step"], row["task_loss"]) for row in outcome.scores.curve]
    later = [
        (method.name, row["step"], row["loss"])
        for method in outcome.methods.values()
        for row in method.curve
        if "loss" in row
    ]
    return [
        {"method": m, "step": int(step), "loss": round(loss, 5)} for m, step, loss in early + later
    ]


def kept(outcome: Outcome) -> Rows:
    """Heads and neurons that each layer keeps, layers in depth order.

    A layer of a decoder may have two attention blocks, whose heads are added.
    """
    rows = []
    for method in outcome.methods.values():
        layers: dict[str, dict[str, int]] = {}
        for unit in ("heads", "neurons"):
            for path, cut in getattr(method.plan, unit).items():
                counts = layers.setdefault(_layer(path), {"heads": 0, "neurons": 0})
                counts[unit] += len(cut.kept)
        for number, counts in enumerate(layers.values()):
            rows.append({"method": method.name, "layer": number, **counts})
    return rows


def ranks(outcome: Outcome) -> Rows:
    """Ranks that each PEFT module keeps; 0 where the module went."""
    return [
        {
            "method": method.name,
            "module": kind_of(path),
            "layer": layer_of(path),
            "ranks": len(cut.kept),
        }
        for method in outcome.methods.values()
        for path, cut in method.plan.ranks.items()
    ]


def speed(outcome: Outcome) -> Rows:
    """The metric, with its interval, against the training speed-up."""
    return [
        {
            "method": method.name,
            "train_speedup": round(outcome.speedup(method.name, "training").median, 4),
            "metric": outcome.metric,
            "value": round(method.quality[outcome.metric], 4),
            "low": round(method.quality["interval"][0], 4),
            "high": round(method.quality["interval"][1], 4),
        }
        for method in outcome.methods.values()
    ]


def _layer(path: str) -> str:
    """The path of the layer that a block or a module lies in: up to its first number."""
    return re.match(r".*?\.\d+(?=\.|$)", path)[0]


def layer_of(path: str) -> int:
    """The layer that a block or a module lies in: the first number of its path."""
    return int(re.search(r"\.(\d+)(?:\.|$)", path)[1])


def kind_of(path: str) -> str:
    """What a module is, whatever its layer: the part of its path after the layer's number."""
    return re.split(r"\.\d+\.", path, maxsplit=1)[-1]


def write_series(path: Path, rows: Rows) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
