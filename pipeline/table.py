"""The comparison table that `make run` ends with."""

from __future__ import annotations

from pathlib import Path

from lightpeft.errors import LightPeftError
from lightpeft.files import read_json

_COLUMNS = (
    ("base_parameters", "base params", "{:,}"),
    ("trainable_parameters", "trainable", "{:,}"),
    ("train_speedup", "train speed-up", "{:.2f}x"),
    ("inference_speedup", "inference speed-up", "{:.2f}x"),
    ("train_memory_ratio", "train memory", "{:.2f}x"),
    ("inference_memory_ratio", "inference memory", "{:.2f}x"),
)


def main(metrics: str, results: str) -> None:
    """Print metrics.json as a table; intervals come from each method's eval.json."""
    print(table(Path(metrics), Path(results)))


def table(metrics: Path, results: Path) -> str:
    """A row per method, columns aligned."""
    rows = []
    for name, found in read_json(metrics, LightPeftError).items():
        metric = next(iter(found))
        low, high = read_json(results / name / "eval.json", LightPeftError)["interval"]
        cells = [
            pattern.format(found[key]) if key in found else "-" for key, _, pattern in _COLUMNS
        ]
        rows.append([name, f"{found[metric]:.4f} [{low:.4f}, {high:.4f}]", *cells])
    header = ["method", metric, *(title for _, title, _ in _COLUMNS)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
