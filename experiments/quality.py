"""Measure quality over seeds and data sets with the pipeline's stages, in one process.

    python -m experiments.quality run docstrings --seeds 0 1 2
    python -m experiments.quality run sst2 --data FOLDER --text sentence --seeds 0 1 2
    python -m experiments.quality table

FOLDER holds train.jsonl and validation.jsonl of the public data set, with the label under
`label`; its validation rows are the test split, and a tenth of its training rows validation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ruamel.yaml import YAML

from pipeline.common.errors import PipelineError
from pipeline.common.files import read_json, write_json
from pipeline.common.paths import Paths
from pipeline.stages import estimate, evaluate, finetune, prepare, prune

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "quality"
WORK = ROOT / "experiments" / "runs"
# name in the table -> method of the pipeline, ratio of heads and neurons
VARIANTS = {
    "vanilla": ("vanilla", 0.3333),
    "light 1/3": ("light", 0.3333),
    "light 1/2": ("light", 0.5),
    "random 1/3": ("random", 0.3333),
}


def write_params(task: str, seed: int, source: argparse.Namespace) -> None:
    """Write this repository's params.yaml with another seed and task into the current folder."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["seed"] = seed
    if source.data:
        folder = Path(source.data).resolve()
        params["data"] |= {
            "task": "files",
            "train": str(folder / "train.jsonl"),
            "test": "auto",
            "validation": str(folder / "validation.jsonl"),
            "text": source.text if len(source.text) > 1 else source.text[0],
            "label": "label",
        }
    for change in source.set:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        params[section][name] = YAML(typ="safe").load(value)
    yaml.dump(params, Path("params.yaml"))


def set_ratio(ratio: float) -> None:
    """Change prune.ratio in the current folder's params.yaml."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["prune"]["ratio"] = ratio
    yaml.dump(params, Path("params.yaml"))


def run(source: argparse.Namespace) -> None:
    """Prepare and estimate once per seed, then prune, fine-tune and evaluate each variant."""
    for seed in source.seeds:
        folder = WORK / f"{source.task}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        write_params(source.task, seed, source)
        prepare.main(Paths())
        estimate.main(Paths())
        record = {
            "task": source.task,
            "seed": seed,
            "settings": YAML(typ="safe").load(Path("params.yaml")),
            "threads": torch.get_num_threads(),
            "variants": {name: run_variant(name) for name in source.variants},
        }
        if source.data:  # the public name, not the local path
            for key in ("train", "validation"):
                record["settings"]["data"][key] = f"{source.task}/{key}.jsonl"
        write_json(RESULTS / f"{source.task}-{seed}.json", record)


def run_variant(name: str) -> dict[str, Any]:
    """Prune, fine-tune and evaluate one variant."""
    method, ratio = VARIANTS[name]
    paths = Paths()
    set_ratio(ratio)
    for stage in (prune, finetune, evaluate):
        stage.main(method, paths)
    evaluation = read_json(paths.evaluation(method))
    metric = evaluation["metric"]
    kept = ("metric", metric, "interval", "base_parameters", "trainable_parameters")
    lifted = evaluation["lifted"][metric] if evaluation["lifted"] else None
    curve = pd.read_csv(paths.curve(method))
    return {
        **{key: evaluation[key] for key in kept},
        "lifted": lifted,
        "validation": curve["validation_metric"].dropna().iloc[-1],
    }


def table() -> str:
    """Return a Markdown table: mean and standard deviation over seeds, in percent."""
    records_by_task: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        record = read_json(path)
        records_by_task.setdefault(record["task"], []).append(record)
    lines = [
        "| task | metric | " + " | ".join(VARIANTS) + " |",
        "|---|---|" + "---:|" * len(VARIANTS),
    ]
    means: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for task, records in records_by_task.items():
        metric = records[0]["variants"]["vanilla"]["metric"]
        cells = []
        for name in VARIANTS:
            values = [100 * record["variants"][name][metric] for record in records]
            means[name].append(statistics.mean(values))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{means[name][-1]:.1f}{spread}")
        lines.append(f"| {task} (seeds: {len(records)}) | {metric} | " + " | ".join(cells) + " |")
    average = [f"{statistics.mean(values):.1f}" for values in means.values()]
    lines.append("| mean | | " + " | ".join(average) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("task")
    runs.add_argument("--data", help="folder with train.jsonl and validation.jsonl")
    runs.add_argument("--text", nargs="+", default=["sentence"], help="one text column or two")
    runs.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    runs.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    runs.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    commands.add_parser("table")
    source = parser.parse_args()
    if source.command == "table":
        print(table())
        return
    try:
        run(source)
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
