"""Draw the README's figure from the records and metrics.json: python -m experiments.readme_figure

Writes docs/images/results.svg. Text and lines have a grey that is legible on light and on dark
backgrounds; the background is transparent.
"""

from __future__ import annotations

import statistics

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.quality import RESULTS
from experiments.settings import ROOT
from pipeline.common.artefacts import RunSummary
from pipeline.common.files import read_json

OUT = ROOT / "docs" / "images" / "results.svg"
_GREY = "#6e7681"
# name in the figure -> variant in the records, method in metrics.json, colour, marker
_METHODS = {
    "vanilla LoRA": ("vanilla", "vanilla", "#8b949e", "s"),
    "light, 1/3 pruned": ("light 1/3", "light", "#1f83d6", "o"),
    "random, 1/3 pruned": ("random 1/3", "random", "#e07b39", "^"),
}
_PHASES = ("training step", "inference")


def read_accuracies() -> dict[str, dict[str, list[float]]]:
    """Return the accuracies in percent, one per seed: task -> variant -> values."""
    values: dict[str, dict[str, list[float]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = read_json(path)
        for variant, result in record["variants"].items():
            by_variant = values.setdefault(record["task"], {})
            by_variant.setdefault(variant, []).append(100 * result[result["metric"]])
    return values


def draw() -> Figure:
    """Return the figure: accuracy per task on the left, speed-up on the right."""
    figure = Figure(figsize=(8.4, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _draw_accuracies(left)
    _draw_speedups(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_accuracies(axes: Axes) -> None:
    tasks = read_accuracies()
    for shift, (name, (variant, _, colour, marker)) in enumerate(_METHODS.items(), start=-1):
        axes.errorbar(
            [i + 0.2 * shift for i in range(len(tasks))],
            [statistics.mean(values[variant]) for values in tasks.values()],
            yerr=[statistics.stdev(values[variant]) for values in tasks.values()],
            fmt=marker,
            color=colour,
            capsize=2,
            label=name,
        )
    axes.set_xticks(range(len(tasks)), list(tasks))
    axes.set_ylabel("accuracy in %, 3 seeds")
    axes.grid(axis="y", alpha=0.25)


def _draw_speedups(axes: Axes) -> None:
    methods = RunSummary.read(ROOT / "metrics.json").methods
    for shift, (_, method, colour, _) in enumerate(_METHODS.values(), start=-1):
        places = [i + 0.27 * shift for i in range(len(_PHASES))]
        values = [methods[method].train_speedup, methods[method].inference_speedup]
        bars = axes.bar(places, values, width=0.25, color=colour)
        axes.bar_label(bars, fmt="%.2fx", fontsize=8, color=_GREY)
    axes.set_xticks(range(len(_PHASES)), _PHASES)
    axes.set_ylabel("speed-up")


def main() -> None:
    """Write the figure; the same inputs give the same bytes."""
    style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _GREY)
    style |= dict.fromkeys(("xtick.color", "ytick.color"), _GREY)
    with mpl.rc_context(style | {"font.size": 9, "svg.hashsalt": "lightpeft"}):
        OUT.parent.mkdir(exist_ok=True)
        draw().savefig(OUT, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
