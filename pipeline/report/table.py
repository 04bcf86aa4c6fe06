"""The comparison table of all methods, as text."""

from __future__ import annotations

from tabulate import tabulate

from pipeline.common.artefacts import Evaluation, RunSummary
from pipeline.common.paths import Paths
from pipeline.common.text import describe_metric

# Key in metrics.json, title, format. Keys that no method has are left out.
_COLUMNS = (
    ("base_parameters", "base\nparams", "{:,}"),
    ("trainable_parameters", "trainable", "{:,}"),
    ("end_to_end_speedup", "end-to-end\nspeed-up", "{:.2f}x"),
    *(
        (f"{phase}_{quantity}", f"{phase}\n{title}", "{:.2f}x")
        for quantity, title in (("speedup", "speed-up"), ("memory_ratio", "memory"))
        for phase in ("train", "inference", "prefill", "decode")
    ),
)


def format_comparison(paths: Paths) -> str:
    """Return metrics.json as a text table with a row per method.

    The interval of the main metric comes from each method's evaluation.

    Raises:
        PipelineError: a file is missing or damaged.
    """
    methods = RunSummary.read(paths.metrics).model_dump()
    columns = [column for column in _COLUMNS if any(column[0] in row for row in methods.values())]
    rows = []
    for name, values in methods.items():
        evaluation = Evaluation.read(paths.locate_evaluation(name))
        low, high = evaluation.interval
        metric, classes = f"test_{evaluation.metric}", evaluation.labels
        title = f"test_{describe_metric(evaluation.metric, classes, evaluation.positive_class)}"
        rows.append(
            {"method": name, title: f"{values[metric]:.4f} [{low:.4f}, {high:.4f}]"}
            | {
                column: pattern.format(values[key]) if key in values else "-"
                for key, column, pattern in columns
            }
        )
    alignment = ("left", *["right"] * (len(columns) + 1))
    return str(tabulate(rows, headers="keys", disable_numparse=True, colalign=alignment))
