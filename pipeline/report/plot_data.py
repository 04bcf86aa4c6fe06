"""The data behind the figures: the CSV files that DVC plots, and that the PNG files show."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from pipeline.report.run_results import RunResults

ESTIMATE = "estimate"


def write_plot_data(results: RunResults, folder: Path) -> None:
    """Write one CSV file per series into a folder."""
    frames = {
        "training": collect_training_loss(results),
        "kept": count_kept_units(results),
        "ranks": count_kept_ranks(results),
        "speed": collect_quality_and_speed(results),
    }
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def collect_training_loss(results: RunResults) -> pd.DataFrame:
    """Return the loss of the estimation and of every method's fine-tuning.

    Returns:
        Columns `method` (`estimate` for the estimation), `step` and `loss`.
    """
    rows = [(ESTIMATE, row["step"], row["task_loss"]) for row in results.scores.curve]
    for method in results.methods.values():
        curve = method.curve.dropna(subset="loss")
        rows += [(method.name, *row) for row in zip(curve["step"], curve["loss"], strict=True)]
    return pd.DataFrame(
        [(name, int(step), round(float(loss), 5)) for name, step, loss in rows],
        columns=["method", "step", "loss"],
    )


def count_kept_units(results: RunResults) -> pd.DataFrame:
    """Return the heads and neurons that each layer keeps, layers in the order of their depth.

    A decoder layer with cross-attention has two attention blocks, whose heads are added.

    Returns:
        Columns `method`, `layer`, `heads` and `neurons`; rows of the methods that have a plan.
    """
    rows = []
    for method in results.methods.values():
        if method.plan is None:
            continue
        layers: dict[str, dict[str, int]] = {}
        for name, blocks in (("heads", method.plan.heads), ("neurons", method.plan.neurons)):
            for path, units in blocks.items():
                counts = layers.setdefault(_find_layer_path(path), {"heads": 0, "neurons": 0})
                counts[name] += len(units.kept)
        rows += [
            {"method": method.name, "layer": number, **counts}
            for number, counts in enumerate(layers.values())
        ]
    return pd.DataFrame(rows)


def count_kept_ranks(results: RunResults) -> pd.DataFrame:
    """Return the ranks that each PEFT module keeps; 0 if the module is pruned.

    Returns:
        Columns `method`, `module`, `layer` and `ranks`; rows of the methods that have a plan.
    """
    return pd.DataFrame(
        [
            (method.name, find_module_name(path), find_layer_number(path), len(units.kept))
            for method in results.methods.values()
            if method.plan is not None
            for path, units in method.plan.ranks.items()
        ],
        columns=["method", "module", "layer", "ranks"],
    )


def collect_quality_and_speed(results: RunResults) -> pd.DataFrame:
    """Return each method's main metric and training speed-up.

    Returns:
        Columns `method`, `train_speedup`, `metric` (its name), `value`, and `low` and `high`, the
        limits of the value's interval.
    """
    rows = []
    for method in results.methods.values():
        speedup = results.get_speedup(method.name, "training").median
        numbers = [speedup, method.quality, *method.evaluation.interval]
        speedup, value, low, high = (round(number, 4) for number in numbers)
        rows.append((method.name, speedup, results.metric, value, low, high))
    columns = ["method", "train_speedup", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def find_layer_number(path: str) -> int:
    """Return the number of the layer that a block or module lies in: the first in its path.

    >>> find_layer_number("bert.encoder.layer.3.attention.self.query")
    3
    """
    return int(_split_at_layer(path)[2])


def find_module_name(path: str) -> str:
    """Return a module's path inside its layer.

    >>> find_module_name("bert.encoder.layer.3.attention.self.query")
    'attention.self.query'
    """
    return _split_at_layer(path)[3]


def _find_layer_path(path: str) -> str:
    """Return the path of the layer that a block or module lies in."""
    return _split_at_layer(path)[1]


def _split_at_layer(path: str) -> re.Match[str]:
    """Split a path at its first number: the layer's path, its number, and what follows."""
    match = re.match(r"(.*?\.(\d+))(?:\.(.*))?$", path)
    if match is None:
        raise ValueError(f"{path} lies in no numbered layer")
    return match
