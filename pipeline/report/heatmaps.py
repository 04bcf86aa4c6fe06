"""Figures of what was pruned, and of the importance scores that decided it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from lightpeft.core.plan import PruningPlan
from pipeline.common.text import quantify
from pipeline.report import plot_data
from pipeline.report.plot_style import (
    COLOURS,
    PRUNED_COLOUR,
    Grid,
    Picture,
    create_figure,
    cross_out_cells,
    draw_cells,
    get_colour,
    render_picture,
    write_cell_values,
)
from pipeline.report.run_results import RunResults


def draw_heads(results: RunResults) -> Picture:
    """Draw every head of every layer: its importance, and whether it was pruned."""
    method, plan = results.highlighted, results.plan
    blocks = plan.heads
    scores = results.scores.heads.get(str(plan.settings["criterion"]))
    width = max(units.total for units in blocks.values())
    grid = np.full((len(blocks), width), np.nan)
    pruned = []
    for row, (path, units) in enumerate(blocks.items()):
        shades = 0.3 if scores is None else _normalize(scores[path].numpy())
        grid[row, : units.total] = shades
        pruned += [(row, head) for head in range(units.total) if head not in units.kept]
    figure, axes = create_figure(0.9 + 0.21 * len(grid))
    layers = [str(plot_data.find_layer_number(path)) for path in blocks]
    draw_cells(axes, grid, layers, [str(head) for head in range(width)], top=1.2)
    cross_out_cells(axes, pruned)
    axes.set(xlabel="head", ylabel="layer")
    total = sum(units.total for units in blocks.values())
    alt = f"{len(grid)} layers by {width} heads; {len(pruned)} of {total} heads are crossed out."
    shaded = "" if scores is None else ", shaded by importance"
    return render_picture(figure, f"Heads that {method.name} prunes (x){shaded}", alt)


def _normalize(scores: Grid) -> Grid:
    """Return scores relative to the layer's highest, because heads compete within their layer.

    The square root keeps small scores apart where a few heads outweigh all others.
    """
    relative: Grid = np.sqrt(scores / max(scores.max(), np.finfo(np.float32).tiny))
    return relative


def draw_kept_units(results: RunResults) -> Picture:
    """Draw how many heads and neurons each layer keeps, by method."""
    rows = plot_data.count_kept_units(results)
    figure, both = create_figure(3.6, 2, sharex=True)
    for axes, unit in zip(both, ("heads", "neurons"), strict=True):
        # The first method is drawn last, on top of those that keep as much.
        for index, name in reversed([*enumerate(rows["method"].unique())]):
            layers = rows[rows["method"] == name]
            axes.plot(
                layers["layer"],
                layers[unit],
                color=get_colour(name),
                marker="osD^"[index % 4],
                markersize=4,
                alpha=0.85,
                label=name,
            )
        axes.set_ylim(0, 1.1 * rows[unit].max())
        axes.set_title(f"{unit} kept")
        axes.grid(True, axis="y")
    both[1].set_xlabel("layer")
    both[1].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    name = results.highlighted.name
    alt = f"{name} keeps " + "; ".join(
        f"in layer {row.layer} {quantify(row.heads, 'head')} and {quantify(row.neurons, 'neuron')}"
        for row in rows[rows["method"] == name].itertuples()
    )
    return render_picture(figure, "Heads and neurons kept, per layer", alt)


def draw_ranks(results: RunResults) -> Picture:
    """Draw the ranks that each PEFT module keeps."""
    modules = results.plan.ranks
    ranks = {path: len(units.kept) for path, units in modules.items()}
    total = sum(units.total for units in modules.values())
    remaining = sum(map(bool, ranks.values()))
    alt = (
        f"{sum(ranks.values())} of {total} ranks are kept, "
        f"in {remaining} of {len(ranks)} PEFT modules."
    )
    figure = _draw_module_values(ranks, results.plan, number="{:.0f}")
    title = f"Ranks that {results.highlighted.name} keeps (x: module pruned)"
    return render_picture(figure, title, alt)


def draw_modules(results: RunResults) -> Picture:
    """Draw the importance of each PEFT module: its output relative to its linear layer's."""
    percent = {path: 100 * value for path, value in results.scores.modules.items()}
    highest = max(percent, key=lambda path: percent[path])
    alt = f"Importance of each PEFT module; the highest is {percent[highest]:.3g} %, {highest}."
    figure = _draw_module_values(percent, results.plan, number="{:.2g}")
    title = "Importance of PEFT modules, in percent of the base model's activations"
    return render_picture(figure, title, alt)


def _draw_module_values(values: Mapping[str, float], plan: PruningPlan, *, number: str) -> Figure:
    """Draw a value per PEFT module, names by layers, with the pruned modules crossed out.

    Args:
        values: path of a module -> its value.
        plan: decides which modules are pruned.
        number: format string of a value.
    """
    names = list(dict.fromkeys(map(plot_data.find_module_name, values)))
    layers = sorted(set(map(plot_data.find_layer_number, values)))
    grid = np.full((len(names), len(layers)), np.nan)
    pruned = []
    for path, value in values.items():
        row = names.index(plot_data.find_module_name(path))
        column = layers.index(plot_data.find_layer_number(path))
        grid[row, column] = value
        if not plan.ranks[path].kept:
            pruned.append((row, column))
    figure, axes = create_figure(0.9 + 0.24 * len(names))
    top = float(np.nanmax(grid)) * 1.2 or 1.0
    draw_cells(axes, grid, names, [str(layer) for layer in layers], top=top)
    if len(layers) <= 12:
        write_cell_values(axes, grid, number, set(pruned))
    cross_out_cells(axes, pruned)
    axes.set_xlabel("layer")
    return figure


def draw_neurons(results: RunResults) -> Picture | None:
    """Draw the distribution of neuron scores, kept against pruned.

    Returns:
        None where neurons were not ranked by a score, or every score is 0.
    """
    plan = results.plan
    scores_of_block = results.scores.neurons.get(str(plan.settings["criterion"]))
    if scores_of_block is None:
        return None
    blocks = plan.neurons
    scores = np.concatenate([scores_of_block[path].numpy() for path in blocks]).astype(float)
    kept = np.concatenate([np.isin(np.arange(x.total), x.kept) for x in blocks.values()])
    # A score of 0 has no logarithm: it is drawn at the left edge.
    positive = scores[scores > 0]
    if not positive.size:
        return None
    low, high = np.log10(positive.min()), np.log10(positive.max())
    exponents = np.log10(np.maximum(scores, positive.min()))
    bins = np.linspace(low, max(high, low + 1), 40)
    figure, axes = create_figure(2.4)
    axes.hist(
        [exponents[~kept], exponents[kept]],
        bins=bins.tolist(),
        stacked=True,
        color=[PRUNED_COLOUR, COLOURS["light"]],
        label=["pruned", "kept"],
    )
    axes.legend()
    axes.set(xlabel="log10 of importance", ylabel="neurons")
    alt = f"Histogram of neuron importance; {int((~kept).sum())} of {kept.size} neurons are pruned."
    return render_picture(figure, f"Importance of neurons ({plan.settings['criterion']})", alt)
