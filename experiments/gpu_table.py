"""The rows of experiments.gpu as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_COLUMNS = ("model", "rows x tokens", "ratios", "phase", "method", "ms", "speed-up", "FLOP bound",
            "share of bound", "TFLOP/s", "kernels", "host ms", "GB")  # fmt: skip


def format_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a line for each row, and the reason where there is none."""
    lines = [_COLUMNS, ("---",) * 5 + ("---:",) * (len(_COLUMNS) - 5)]
    for row in rows:
        form = "" if row["form"] == "eager" else f", {row['form']}"
        names = (
            row["case"],
            f"{row['rows']} x {row['tokens']}",
            row["ratios"],
            f"{row['phase']}{form}",
            row["method"],
        )
        lines.append((*names, *_format_numbers(row)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _format_numbers(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["error"], *[""] * (len(_COLUMNS) - 6))
    return (
        f"{row['ms']:.1f}",
        f"{row['speedup']:.2f}x",
        f"{row['flop_bound']:.2f}x",
        f"{100 * row['share_of_bound']:.0f} %",
        f"{row['tflops']:.1f}",
        f"{row['kernels']:,}" if row.get("kernels") else "",
        f"{row['host_ms']:.1f}",
        f"{row['memory_gb']:.1f}" if "memory_gb" in row else "",
    )
