"""Maps of what was cut, and of the importance that decided it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from pipeline.report import plot_data as series
from pipeline.report.plot_style import (
    COLOURS,
    CUT,
    Picture,
    cell_map,
    cross_out,
    new_figure,
    to_picture,
    write_cells,
)
from pipeline.report.run_results import Method, Outcome


def heads(outcome: Outcome) -> Picture:
    """Every head of every layer: how important it was, and whether it went."""
    method = outcome.lead
    scores = outcome.scores.heads.get(str(method.plan.settings["criterion"]))
    width = max(cut.total for cut in method.plan.heads.values())
    grid = np.full((len(method.plan.heads), width), np.nan)
    gone = []
    for row, (path, cut) in enumerate(method.plan.heads.items()):
        grid[row, : cut.total] = 0.3 if scores is None else _relative(scores[path].numpy())
        gone += [(row, unit) for unit in range(cut.total) if unit not in cut.kept]
    figure, axes = new_figure(0.9 + 0.21 * len(grid))
    layers = [str(series.layer_of(path)) for path in method.plan.heads]
    cell_map(axes, grid, layers, [str(unit) for unit in range(width)], top=1.2)
    cross_out(axes, gone)
    axes.set(xlabel="head", ylabel="layer")
    total = sum(cut.total for cut in method.plan.heads.values())
    alt = f"{len(grid)} layers by {width} heads; {len(gone)} of {total} heads are crossed out."
    shaded = "" if scores is None else ", shaded by importance"
    return to_picture(figure, f"Heads that {method.name} cut (x){shaded}", alt)


def _relative(scores: np.ndarray) -> np.ndarray:
    """Scores against the layer's best, for heads compete within their layer.

    The root keeps the many small ones apart where a few heads outweigh all others.
    """
    return np.sqrt(scores / max(scores.max(), np.finfo(np.float32).tiny))


def kept(outcome: Outcome) -> Picture:
    """How much each layer keeps, by method."""
    rows = series.kept(outcome)
    figure, both = new_figure(3.6, 2, sharex=True)
    for axes, unit in zip(both, ("heads", "neurons"), strict=True):
        # The first method is drawn last, on top of those that keep as much.
        for index, name in reversed([*enumerate(outcome.methods)]):
            mine = [row for row in rows if row["method"] == name]
            axes.plot(
                [row["layer"] for row in mine],
                [row[unit] for row in mine],
                color=COLOURS[name],
                marker="osD^"[index % 4],
                markersize=4,
                alpha=0.85,
                label=name,
            )
        axes.set_ylim(0, 1.1 * max(row[unit] for row in rows))
        axes.set_title(f"{unit} kept")
        axes.grid(True, axis="y")
    both[1].set_xlabel("layer")
    both[1].xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    lead = [row for row in rows if row["method"] == outcome.lead.name]
    alt = f"{outcome.lead.name} keeps " + "; ".join(
        f"in layer {row['layer']} {row['heads']} heads and {row['neurons']} neurons" for row in lead
    )
    return to_picture(figure, "Heads and neurons kept, per layer", alt)


def ranks(outcome: Outcome) -> Picture:
    """Ranks that each PEFT module keeps."""
    plan = outcome.lead.plan
    values = {path: len(cut.kept) for path, cut in plan.ranks.items()}
    total = sum(cut.total for cut in plan.ranks.values())
    alt = f"{sum(values.values())} of {total} ranks are kept, in " + (
        f"{sum(map(bool, values.values()))} of {len(values)} modules."
    )
    figure = _module_map(values, outcome.lead, number="{:.0f}")
    return to_picture(figure, f"Ranks that {outcome.lead.name} keeps (x: module cut)", alt)


def modules(outcome: Outcome) -> Picture:
    """How much each PEFT module adds to its linear's output."""
    values = {path: 100 * value for path, value in outcome.scores.modules.items()}
    best = max(values, key=lambda path: values[path])
    alt = f"Importance of each PEFT module; the highest is {values[best]:.3g} %, {best}."
    figure = _module_map(values, outcome.lead, number="{:.2g}")
    return to_picture(figure, "Importance of PEFT modules, in percent of the base's output", alt)


def _module_map(values: dict[str, float], method: Method, *, number: str) -> Figure:
    """Draw a value per PEFT module, kinds by layers, the modules cut crossed out."""
    kinds = list(dict.fromkeys(map(series.kind_of, values)))
    layers = sorted(set(map(series.layer_of, values)))
    grid = np.full((len(kinds), len(layers)), np.nan)
    gone = []
    for path, value in values.items():
        cell = kinds.index(series.kind_of(path)), layers.index(series.layer_of(path))
        grid[cell] = value
        if not method.plan.ranks[path].kept:
            gone.append(cell)
    figure, axes = new_figure(0.9 + 0.24 * len(kinds))
    top = float(np.nanmax(grid)) * 1.2 or 1.0
    cell_map(axes, grid, kinds, [str(layer) for layer in layers], top=top)
    if len(layers) <= 12:
        write_cells(axes, grid, number, set(gone))
    cross_out(axes, gone)
    axes.set_xlabel("layer")
    return figure


def neurons(outcome: Outcome) -> Picture | None:
    """Distribution of neuron scores, kept against cut."""
    plan = outcome.lead.plan
    scores = outcome.scores.neurons.get(str(plan.settings["criterion"]))
    if scores is None:
        return None
    mine = np.zeros(0)
    stays = np.zeros(0, dtype=bool)
    for path, cut in plan.neurons.items():
        mine = np.append(mine, scores[path].numpy())
        stays = np.append(stays, np.isin(np.arange(cut.total), cut.kept))
    # A score of 0 has no logarithm: it is drawn at the left edge.
    positive = mine[mine > 0]
    if not positive.size:
        return None
    low, high = np.log10(positive.min()), np.log10(positive.max())
    exponents = np.log10(np.maximum(mine, positive.min()))
    bins = np.linspace(low, max(high, low + 1), 40)
    figure, axes = new_figure(2.4)
    axes.hist(
        [exponents[~stays], exponents[stays]],
        bins=bins.tolist(),
        stacked=True,
        color=[CUT, COLOURS["light"]],
        label=["cut", "kept"],
    )
    axes.legend()
    axes.set(xlabel="importance, power of 10", ylabel="neurons")
    alt = f"Histogram of neuron importance; {int((~stays).sum())} of {stays.size} neurons are cut."
    return to_picture(figure, f"Importance of neurons ({plan.settings['criterion']})", alt)
