"""Measure what compressing the adapter of a method leaves of its quality, on the test split.

    python -m experiments.compressed_quality light 0.05 0.2

Run it after the stage finetune, in the folder with params.yaml. Each fraction is written as
`lightpeft export --compress` writes it, and loaded from that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import transformers
import typer

from lightpeft.core.adapter_layout import find_adapter_file
from lightpeft.pruning import checkpoint
from pipeline.common.console import find_device
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.params import EvaluateParams
from pipeline.common.paths import Paths
from pipeline.metrics.scoring import score
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task


def measure(paths: Paths, folder: Path) -> float:
    """Return the metric of an adapter on the test split."""
    params, card = EvaluateParams.load(paths.params), DataCard.read(paths.prepared)
    if params.evaluate.max_new_tokens is not None:
        card = card.model_copy(update={"max_new_tokens": params.evaluate.max_new_tokens})
    task = make_task(card)
    base, _ = load_model(params.model, task, params.seed)
    model = checkpoint.load(base, folder).to(find_device())
    predictions = task.predict(
        model,
        read_rows(paths.prepared, "test"),
        load_processor(params.model, task),
        batch_size=params.evaluate.batch_size,
    )
    return score(card, predictions)[card.metric]


def main(
    method: Annotated[str, typer.Argument(help="One of methods, with a pruning plan.")],
    fractions: Annotated[list[float], typer.Argument(help="Of the changes to keep, in (0, 1].")],
    root: Annotated[Path, typer.Option(help="Folder with params.yaml.")] = Path(),
) -> None:
    """Print size and metric of a method's adapter, whole and compressed."""
    transformers.logging.set_verbosity_error()
    paths = Paths(root)
    metric = DataCard.read(paths.prepared).metric
    print(f"| adapter | bytes | test {metric} |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as temporary:
        folder, title = paths.locate_model(method), "whole"
        for fraction in (None, *fractions):
            if fraction is not None:
                folder, title = Path(temporary) / f"{fraction}", f"`--compress {fraction:g}`"
                checkpoint.compress_result(paths.locate_model(method), folder, fraction)
            size = (folder / find_adapter_file(folder)).stat().st_size
            print(f"| {title} | {size:,} | {measure(paths, folder):.4f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
