"""The comparison table that `make run` ends with."""

from __future__ import annotations

from pipeline.common.errors import PipelineError
from pipeline.common.files import read_json
from pipeline.common.paths import Paths

_COLUMNS = (
    ("base_parameters", "base params", "{:,}"),
    ("trainable_parameters", "trainable", "{:,}"),
    *(
        (f"{phase}_{what}", f"{phase} {title}", "{:.2f}x")
        for what, title in (("speedup", "speed-up"), ("memory_ratio", "memory"))
        for phase in ("train", "inference", "prefill", "decode")
    ),
)


def main(paths: Paths) -> None:
    """Print metrics.json as a table; intervals come from each method's eval.json."""
    print(table(paths))


def table(paths: Paths) -> str:
    """A row per method, columns aligned."""
    rows = []
    methods = read_json(paths.metrics, PipelineError)
    columns = [column for column in _COLUMNS if any(column[0] in row for row in methods.values())]
    for name, found in methods.items():
        metric = next(iter(found))
        low, high = read_json(paths.evaluation(name), PipelineError)["interval"]
        cells = [pattern.format(found[key]) if key in found else "-" for key, _, pattern in columns]
        rows.append([name, f"{found[metric]:.4f} [{low:.4f}, {high:.4f}]", *cells])
    header = ["method", metric, *(title for _, title, _ in columns)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
