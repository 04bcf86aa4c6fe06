"""What the report's figures share: colours, sizes, PNG bytes, and heatmap cells."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from pipeline.common.methods import METHODS

Grid = npt.NDArray[np.float64]

COLOURS = {
    "light": "#0f766e",
    "vanilla": "#475569",
    "random": "#d97706",
    "magnitude": "#be185d",
    "qv": "#2563eb",
    "small": "#65a30d",
    "freeze": "#0891b2",
    "full": "#111827",
    "estimate": "#7c3aed",
}
# Of methods of peft; two that are compared may have one.
_OTHER_COLOURS = ("#9333ea", "#c2410c", "#4d7c0f", "#0369a1", "#a21caf", "#854d0e", "#15803d")
PRUNED_COLOUR = "#b91c1c"
# Narrow on purpose: on a phone, a figure shrinks to 340 pixels and must stay readable.
WIDTH = 4.4  # inches
STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "xtick.color": "#64748b",
    "ytick.color": "#64748b",
    "text.color": "#1e293b",
    "text.parse_math": False,  # a module's name may contain a $
    "legend.frameon": False,
    "grid.color": "#e2e8f0",
    "savefig.dpi": 200,
}


def get_colour(method: str) -> str:
    """Return the colour of a method, the same in all figures and runs."""
    number = METHODS.index(method) if method in METHODS else 0
    return COLOURS.get(method, _OTHER_COLOURS[number % len(_OTHER_COLOURS)])


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered figure.

    Attributes:
        png: bytes of the PNG file.
        title: caption.
        alt: description for readers who can't see the figure.
    """

    png: bytes
    title: str
    alt: str


def create_figure(height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Create a figure with one column of axes.

    Args:
        height: in inches.
        rows: number of axes.
        options: of `Figure.subplots`.

    Returns:
        The figure, and its axes (an array of them if there are several).
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, 1, **options)


def render_picture(figure: Figure, title: str, alt: str) -> Picture:
    """Render a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Picture(png=buffer.getvalue(), title=title, alt=alt)


def draw_cells(axes: Axes, grid: Grid, rows: list[str], columns: list[str], *, top: float) -> None:
    """Shade one cell per value; a cell whose value is NaN is grey.

    Args:
        axes: to draw on.
        grid: values, shape `(rows, columns)`.
        rows: labels.
        columns: labels.
        top: the value with the darkest shade; 0 has the lightest.
    """
    colours = mpl.colormaps["BuGn"].with_extremes(bad="#f1f5f9")
    axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    # All labels if there is room for them, else every second, third and so on.
    every = 1 + len(columns) // 20
    axes.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every])
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def write_cell_values(axes: Axes, grid: Grid, number: str, skip: set[tuple[int, int]]) -> None:
    """Write each value into its cell.

    Args:
        axes: that the cells were drawn on.
        grid: values, shape `(rows, columns)`.
        number: format string of a value.
        skip: (row, column) of the cells to leave blank.
    """
    dark = np.nanmax(grid) * 0.6
    for cell, value in np.ndenumerate(grid):
        if not np.isnan(value) and cell not in skip:
            colour = "white" if value > dark else "#1e293b"
            axes.text(
                cell[1] + 0.5,
                cell[0] + 0.5,
                number.format(value),
                color=colour,
                size=6.5,
                ha="center",
                va="center",
            )


def cross_out_cells(axes: Axes, cells: list[tuple[int, int]]) -> None:
    """Draw a red cross on cells, given as (row, column)."""
    rows, columns = np.array(cells).reshape(-1, 2).T
    axes.scatter(columns + 0.5, rows + 0.5, marker="x", s=18, color=PRUNED_COLOUR, linewidths=1.2)
