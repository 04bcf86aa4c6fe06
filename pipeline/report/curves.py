"""Figures with axes: quality against speed, losses, validation, masks; and the list of all."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib as mpl
import numpy as np

from lightpeft.core.scores import OVERLAP_COLUMNS
from pipeline.report import heatmaps, plot_data
from pipeline.report.plot_style import (
    COLOURS,
    PRUNED_COLOUR,
    STYLE,
    Grid,
    Picture,
    create_figure,
    get_colour,
    render_picture,
)
from pipeline.report.run_results import RunResults


def draw_all(results: RunResults) -> dict[str, Picture]:
    """Draw every figure that this run has data for; the names are those of the PNG files."""
    draw: dict[str, Callable[[RunResults], Picture | None]] = {
        "speed": _draw_quality_and_speed,
        "heads": heatmaps.draw_heads,
        "kept": heatmaps.draw_kept_units,
        "ranks": heatmaps.draw_ranks,
        "modules": heatmaps.draw_modules,
        "neurons": heatmaps.draw_neurons,
        "training": _draw_training,
        "validation": _draw_validation,
        "masks": _draw_masks,
        "stability": _draw_stability,
    }
    with mpl.rc_context(STYLE):
        pictures = {name: draw_figure(results) for name, draw_figure in draw.items()}
    return {name: picture for name, picture in pictures.items() if picture}


def _draw_quality_and_speed(results: RunResults) -> Picture:
    points = plot_data.collect_quality_and_speed(results).itertuples()
    figure, axes = create_figure(2.7)
    descriptions = []
    for point in points:
        x, y = point.train_speedup, point.value
        errors = [[max(y - point.low, 0)], [max(point.high - y, 0)]]
        colour = get_colour(point.method)
        axes.errorbar(x, y, yerr=errors, fmt="o", color=colour, capsize=3, markersize=7)
        axes.annotate(point.method, (x, y), xytext=(7, 5), textcoords="offset points", color=colour)
        descriptions.append(f"{point.method} {y:.3f} at {x:.2f}x")
    axes.margins(x=0.25, y=0.15)
    axes.set(xlabel="training speed-up against vanilla (x)", ylabel=f"test {results.metric_title}")
    axes.grid(True)
    title = f"Test {results.metric_title} against training speed"
    return render_picture(figure, title, "; ".join(descriptions))


def _draw_training(results: RunResults) -> Picture:
    figure, axes = create_figure(2.6)
    descriptions = []
    for name, rows in plot_data.collect_training_loss(results).groupby("method", sort=False):
        losses = rows["loss"].to_numpy()
        smooth = _smooth(losses)
        axes.plot(rows["step"], losses, color=get_colour(name), alpha=0.18, linewidth=0.8)
        axes.plot(rows["step"], smooth, color=get_colour(name), linewidth=1.5, label=name)
        descriptions.append(f"{name} {smooth[0]:.3f} to {smooth[-1]:.3f}")
    axes.set(xlabel="step (batches)", ylabel="training loss")
    axes.grid(True, axis="y")
    axes.legend(ncols=2)
    alt = "Smoothed loss, first to last: " + "; ".join(descriptions)
    return render_picture(figure, "Training loss", alt)


def _draw_validation(results: RunResults) -> Picture | None:
    figure, axes = create_figure(2.6)
    descriptions = []
    for method in reversed(results.methods.values()):
        rows = method.curve.dropna(subset="validation_metric")
        if rows.empty:
            continue
        values = rows["validation_metric"].to_numpy()
        colour = get_colour(method.name)
        axes.plot(rows["step"], values, "o-", color=colour, markersize=4, label=method.name)
        descriptions.append(f"{method.name} ends at {values[-1]:.3f}")
    if not descriptions:
        return None
    metric = results.card.describe_metric(results.card.selection_metric)
    axes.set(xlabel="step (batches)", ylabel=f"validation {metric}")
    axes.grid(True, axis="y")
    axes.legend()
    return render_picture(figure, f"Validation {metric}", "; ".join(descriptions))


def _draw_masks(results: RunResults) -> Picture:
    curve = results.scores.curve
    figure, axes = create_figure(2.4)
    steps = [row["step"] for row in curve]
    for unit, colour in (("head", COLOURS["light"]), ("neuron", COLOURS["random"])):
        axes.plot(steps, [row[f"{unit}_movement"] for row in curve], color=colour, label=f"{unit}s")
    axes.set(xlabel="step of the estimation", ylabel="mean |1 - mask|")
    axes.grid(True, axis="y")
    axes.legend()
    last = curve[-1]
    alt = (
        f"After {results.scores.steps} steps, the masks of heads have moved by "
        f"{last['head_movement']:.3g} on average, those of neurons by "
        f"{last['neuron_movement']:.3g}."
    )
    return render_picture(figure, "Distance of the masks from their start", alt)


def _draw_stability(results: RunResults) -> Picture | None:
    """Draw the overlaps of the estimation's checks; None where it could not stop early."""
    heads, neurons = OVERLAP_COLUMNS
    rows = [row for row in results.scores.curve if np.isfinite(row.get(heads, np.nan))]
    if not rows:
        return None
    figure, axes = create_figure(2.4)
    for column, colour in ((heads, COLOURS["light"]), (neurons, COLOURS["random"])):
        values = [row[column] for row in rows]
        label = column.removesuffix("_overlap")
        axes.plot([row["step"] for row in rows], values, "o-", color=colour, label=label)
    stable = results.params.estimate.stop.stable
    axes.axhline(stable, color=PRUNED_COLOUR, linestyle="--", label="stable")
    axes.set(xlabel="step of the estimation", ylabel="overlap with the check before")
    axes.grid(True, axis="y")
    axes.legend()
    last = rows[-1]
    alt = (
        f"At step {last['step']:.0f}, {last[heads]:.1%} of the heads to prune and "
        f"{last[neurons]:.1%} of the neurons were those of the check before."
    )
    return render_picture(figure, "Stability of the units to prune", alt)


def _smooth(values: Grid) -> Grid:
    """Return the centred moving average over a tenth of the points, over fewer at the ends."""
    half = max(len(values) // 20, 1)
    return np.array([values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))])
