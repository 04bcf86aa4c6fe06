"""What all figures of the report share: colours, sizes, PNG bytes, and maps of cells."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "light": "#0f766e",
    "vanilla": "#475569",
    "random": "#d97706",
    "estimate": "#7c3aed",
}
CUT = "#b91c1c"
# Narrow on purpose: on a phone, a figure shrinks to 340 pixels and must stay readable.
WIDTH = 4.4
STYLE = {
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
    "text.parse_math": False,  # a model's module may have a $ in its name
    "legend.frameon": False,
    "grid.color": "#e2e8f0",
    "savefig.dpi": 200,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, and what it says to those who can't see it."""

    png: bytes
    title: str
    alt: str


def new_figure(height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure with one column of axes, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, 1, **options)


def to_picture(figure: Figure, title: str, alt: str) -> Picture:
    """Draw a figure; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Picture(png=buffer.getvalue(), title=title, alt=alt)


def cell_map(
    axes: Axes, grid: np.ndarray, rows: list[str], columns: list[str], *, top: float
) -> None:
    """Shade a cell per value, from 0 to `top`; a cell without a value is grey."""
    colours = mpl.colormaps["BuGn"].with_extremes(bad="#f1f5f9")
    axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=1.5)
    axes.invert_yaxis()
    # Every label where they fit, else every second or fourth.
    every = 1 + len(columns) // 20
    axes.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every])
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def write_cells(axes: Axes, grid: np.ndarray, number: str, skip: set[tuple[int, int]]) -> None:
    """Write each value into its cell."""
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


def cross_out(axes: Axes, cells: list[tuple[int, int]]) -> None:
    """Put a red cross on the cells, given as (row, column)."""
    rows, columns = np.array(cells).reshape(-1, 2).T
    axes.scatter(columns + 0.5, rows + 0.5, marker="x", s=18, color=CUT, linewidths=1.2)
