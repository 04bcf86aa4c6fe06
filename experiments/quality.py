"""Measure quality over seeds and data sets with the pipeline's stages, in one process.

    python -m experiments.quality run docstrings evaluate.lifted=false
    python -m experiments.quality run sst2 --data FOLDER --text sentence --seed 0 --seed 1
    python -m experiments.quality table

With `--results` the records are in another folder, for other settings. FOLDER holds train.jsonl
and validation.jsonl of the public data set, with the label under `label`; its validation rows are
the test split, and a tenth of its training rows validation.
"""

from __future__ import annotations

import os
import statistics
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from ruamel.yaml import YAML

from experiments.settings import ROOT, RUNS, write_params
from pipeline.common.artefacts import Evaluation
from pipeline.common.errors import PipelineError
from pipeline.common.files import read_json, write_json
from pipeline.common.paths import Paths
from pipeline.presets import Sections, merge
from pipeline.stages import estimate, evaluate, finetune, prepare, prune

RESULTS = ROOT / "experiments" / "results" / "quality"
# name in the table -> name of its folders, ratio of heads and neurons. The stages treat every name
# but vanilla and random as light.
VARIANTS = {
    "vanilla": ("vanilla", 0.3333),
    "light 1/3": ("light", 0.3333),
    "light 1/2": ("light-half", 0.5),
    "random 1/3": ("random", 0.3333),
}
Variant = StrEnum("Variant", {name: name for name in VARIANTS})
Results = Annotated[Path, typer.Option(help="Folder of the records.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(  # typer reads the options from the parameters, hence so many
    task: Annotated[str, typer.Argument(help="Name of the record.")],
    settings: Annotated[list[str], typer.Argument(metavar="SECTION.KEY=VALUE")] = (),
    data: Annotated[Path | None, typer.Option(help="Folder of a public data set.")] = None,
    text: Annotated[list[str], typer.Option(help="One text column or two.")] = ("sentence",),
    seed: Annotated[list[int], typer.Option()] = (0, 1, 2),
    variant: Annotated[list[Variant], typer.Option()] = tuple(Variant),
    results: Results = RESULTS,
) -> None:
    """Prepare and estimate once per seed, then prune, fine-tune and evaluate each variant."""
    changes, results = parse_settings(settings), results.resolve()
    if data:
        changes = merge({"data": _describe_files(data.resolve(), text)}, changes)
    for number in seed:
        folder = RUNS / f"{task}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        changes["seed"] = number
        record = {"task": task, "seed": number, "settings": write_params(changes)}
        prepare.main(Paths())
        estimate.main(Paths())
        record["threads"] = torch.get_num_threads()
        record["variants"] = {name: _run(name, changes) for name in variant}
        if data:  # the public name, not the local path
            for key in ("train", "validation"):
                record["settings"]["data"][key] = f"{task}/{key}.jsonl"
        write_json(results / f"{task}-{number}.json", record)


def parse_settings(settings: list[str]) -> Sections:
    """Return the settings by section and key."""
    changes: Sections = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = YAML(typ="safe").load(value)
    return changes


def _describe_files(folder: Path, text: list[str]) -> dict[str, Any]:
    """Return the settings of section `data` for the files of a public data set."""
    return {
        "task": "files",
        "train": str(folder / "train.jsonl"),
        "test": "auto",
        "validation": str(folder / "validation.jsonl"),
        "text": list(text) if len(text) > 1 else text[0],
        "label": "label",
    }


def _run(name: str, changes: Sections) -> dict[str, Any]:
    method, ratio = VARIANTS[name]
    return run_variant(method, merge(changes, {"prune": {"ratio": ratio}}))


def run_variant(method: str, settings: Sections) -> dict[str, Any]:
    """Prune, fine-tune and evaluate one method in the current folder."""
    paths = Paths()
    write_params(settings)
    for stage in (prune, finetune, evaluate):
        stage.main(method, paths)
    evaluation = Evaluation.read(paths.locate_evaluation(method))
    metric = evaluation.metric
    curve = pd.read_csv(paths.locate_curve(method))
    return {
        "metric": metric,
        metric: evaluation.metrics[metric],
        "interval": evaluation.interval,
        "base_parameters": evaluation.base_parameters,
        "trainable_parameters": evaluation.trainable_parameters,
        "lifted": evaluation.lifted and evaluation.lifted[metric],
        "validation": curve["validation_metric"].dropna().iloc[-1],
    }


def render_table(results: Path) -> str:
    """Return a Markdown table: mean and standard deviation over seeds, in percent."""
    records_by_task: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*.json")):
        record = read_json(path)
        records_by_task.setdefault(record["task"], []).append(record)
    everything = [record for records in records_by_task.values() for record in records]
    names = [name for name in VARIANTS if all(name in r["variants"] for r in everything)]
    lines = ["| task | metric | " + " | ".join(names) + " |", "|---|---|" + "---:|" * len(names)]
    means: dict[str, list[float]] = {name: [] for name in names}
    for task, records in records_by_task.items():
        metric = records[0]["variants"]["vanilla"]["metric"]
        cells = []
        for name in names:
            values = [100 * record["variants"][name][metric] for record in records]
            means[name].append(statistics.mean(values))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{means[name][-1]:.1f}{spread}")
        lines.append(f"| {task} (seeds: {len(records)}) | {metric} | " + " | ".join(cells) + " |")
    average = [f"{statistics.mean(values):.1f}" for values in means.values()]
    lines.append("| mean | | " + " | ".join(average) + " |")
    return "\n".join(lines)


@app.command()
def table(results: Results = RESULTS) -> None:
    """Print a table of docs/results.md, of the variants that all records have."""
    print(render_table(results))


if __name__ == "__main__":
    try:
        app()
    except PipelineError as error:
        sys.exit(f"error: {error}")
