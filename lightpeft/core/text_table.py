"""Align the columns of a text table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def align_columns(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Return a line per row, its columns two spaces apart; a row may have fewer than the others.

    Args:
        rows: cells, the header's among them.
        left: number of columns, from the first, that are aligned on the left, others on the right.
    """
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
