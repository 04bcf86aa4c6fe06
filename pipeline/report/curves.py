"""The report's figures: curves, and the list of all."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np

from pipeline.report import heatmaps as maps
from pipeline.report import plot_data as series
from pipeline.report.plot_style import COLOURS, STYLE, Picture, new_figure, to_picture
from pipeline.report.run_results import Outcome


def draw_all(outcome: Outcome) -> dict[str, Picture]:
    """Every figure that this run has data for; the names are those of the PNG files."""
    makers: dict[str, Callable[[Outcome], Picture | None]] = {
        "speed": _speed,
        "heads": maps.heads,
        "kept": maps.kept,
        "ranks": maps.ranks,
        "modules": maps.modules,
        "neurons": maps.neurons,
        "training": _training,
        "validation": _validation,
        "masks": _masks,
    }
    with mpl.rc_context(STYLE):
        drawn = {name: make(outcome) for name, make in makers.items()}
    return {name: picture for name, picture in drawn.items() if picture}


def _speed(outcome: Outcome) -> Picture:
    rows = series.speed(outcome)
    figure, axes = new_figure(2.7)
    for row in rows:
        x, y = row["train_speedup"], row["value"]
        reach = [[max(y - row["low"], 0)], [max(row["high"] - y, 0)]]
        colour = COLOURS[row["method"]]
        axes.errorbar(x, y, yerr=reach, fmt="o", color=colour, capsize=3, markersize=7)
        axes.annotate(
            row["method"], (x, y), xytext=(7, 5), textcoords="offset points", color=colour
        )
    axes.margins(x=0.25, y=0.15)
    axes.set(xlabel="training speed-up against vanilla (x)", ylabel=f"test {outcome.metric}")
    axes.grid(True)
    said = "; ".join(f"{r['method']} {r['value']:.3f} at {r['train_speedup']:.2f}x" for r in rows)
    return to_picture(figure, f"{outcome.metric.capitalize()} against speed", said)


def _training(outcome: Outcome) -> Picture:
    rows = series.training(outcome)
    figure, axes = new_figure(2.6)
    ends = []
    for name in dict.fromkeys(row["method"] for row in rows):
        steps = [row["step"] for row in rows if row["method"] == name]
        losses = np.array([row["loss"] for row in rows if row["method"] == name])
        smooth = _smooth(losses)
        axes.plot(steps, losses, color=COLOURS[name], alpha=0.18, linewidth=0.8)
        axes.plot(steps, smooth, color=COLOURS[name], linewidth=1.5, label=name)
        ends.append(f"{name} {smooth[0]:.3f} to {smooth[-1]:.3f}")
    axes.set(xlabel="step (batches seen)", ylabel="training loss")
    axes.grid(True, axis="y")
    axes.legend(ncols=2)
    return to_picture(figure, "Training loss", "Smoothed loss, first to last: " + "; ".join(ends))


def _validation(outcome: Outcome) -> Picture | None:
    column = "validation_metric"
    figure, axes = new_figure(2.6)
    ends = []
    for method in reversed(outcome.methods.values()):
        rows = [row for row in method.curve if column in row]
        if not rows:
            continue
        steps, values = [row["step"] for row in rows], [row[column] for row in rows]
        axes.plot(steps, values, "o-", color=COLOURS[method.name], markersize=4, label=method.name)
        ends.append(f"{method.name} ends at {values[-1]:.3f}")
    if not ends:
        return None
    chosen_by = outcome.card.select
    axes.set(xlabel="step (batches seen)", ylabel=f"validation {chosen_by}")
    axes.grid(True, axis="y")
    axes.legend()
    return to_picture(figure, f"Validation {chosen_by}", "; ".join(ends))


def _masks(outcome: Outcome) -> Picture:
    curve = outcome.scores.curve
    figure, axes = new_figure(2.4)
    steps = [row["step"] for row in curve]
    for unit, colour in (("head", COLOURS["light"]), ("neuron", COLOURS["random"])):
        axes.plot(steps, [row[f"{unit}_movement"] for row in curve], color=colour, label=f"{unit}s")
    axes.set(xlabel="step of the early phase", ylabel="mean |1 - mask|")
    axes.grid(True, axis="y")
    axes.legend()
    last = curve[-1]
    alt = (
        f"After {outcome.scores.steps} steps, masks of heads have moved by "
        f"{last['head_movement']:.3g} on average, of neurons by {last['neuron_movement']:.3g}."
    )
    return to_picture(figure, "How far the masks moved", alt)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a tenth of the points, shorter at the ends."""
    reach = max(len(values) // 20, 1)
    return np.array([values[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(values))])
