"""Run one task of each kind through the pipeline's stages, vanilla and light, in one process.

    python -m experiments.kinds [KIND ...] [--llama FOLDER]
    python -m experiments.kinds --table

Data files and tiny models are made from installed packages, under
experiments/runs/kinds-KIND/data/local. The kinds likelihood and causal need the model that
`python -m experiments.decoder FOLDER` trains.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from ruamel.yaml import YAML

from experiments.kinds_cases import CASES, DATA, Case
from experiments.settings import ROOT, RUNS, write_params
from pipeline.common.artefacts import Evaluation
from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.files import read_json, write_json
from pipeline.common.paths import Paths
from pipeline.presets import merge
from pipeline.stages import estimate, evaluate, finetune, prepare, prune

RESULTS = ROOT / "experiments" / "results" / "kinds"
METHODS = ("vanilla", "light")
Kind = StrEnum("Kind", list(CASES))
_PACKAGES = (
    *("torch", "transformers", "peft"),
    *("networkx", "numpy", "pandas", "scipy", "scikit-learn"),
)
_NOT_IN_PERCENT = ("perplexity", "pearson")


def run(name: str, llama: Path) -> dict[str, Any]:
    """Make the data, prepare and estimate once, then prune, fine-tune and evaluate each method."""
    case, folder = CASES[name], RUNS / f"kinds-{name}"
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if case.needs:
        _link(DATA / case.needs, llama)
    changes = YAML(typ="safe").load(case.changes)
    settings = write_params(merge(changes, {"evaluate": {"lifted": False}}))  # saves time only
    start, cpu = time.monotonic(), time.process_time()
    case.make()
    cpu_of_making = time.process_time() - cpu
    prepare.main(Paths())
    estimate.main(Paths())
    methods = {method: _run_method(method) for method in METHODS}
    card = DataCard.read(Paths().prepared)
    return {
        "kind": card.kind,
        "metric": card.metric,
        "trivial": {"name": case.baseline[0], card.metric: round(case.baseline[1](), 4)},
        **methods,
        "rows": {split: counts.rows for split, counts in card.splits.items()},
        "settings": settings,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - start),
        "cpu_seconds": round(time.process_time() - cpu),
        "cpu_seconds_for_data_and_model": round(cpu_of_making),
    }


def _link(link: Path, llama: Path) -> None:
    """Link the decoder to the path that params.yaml names."""
    if not (llama / "config.json").is_file():
        raise ConfigError(
            f"{llama} holds no model: python -m experiments.decoder {llama}, or --llama"
        )
    link.unlink(missing_ok=True)
    link.symlink_to(llama.resolve())


def _run_method(method: str) -> dict[str, Any]:
    paths = Paths()
    for stage in (prune, finetune, evaluate):
        stage.main(method, paths)
    evaluation = Evaluation.read(paths.locate_evaluation(method))
    return {
        **evaluation.metrics,
        "interval": evaluation.interval,
        "base_parameters": evaluation.base_parameters,
        "trainable_parameters": evaluation.trainable_parameters,
    }


def render_table() -> str:
    """Return the table of docs/results.md and, below it, the lines of params.yaml of all cases."""
    records = {name: RESULTS / f"{name}.json" for name in CASES}
    rows = [
        _format_line(name, CASES[name], read_json(path))
        for name, path in records.items()
        if path.is_file()
    ]
    head = (
        "| `python -m experiments.kinds` | model | task | metric | trivial | vanilla | light 1/3 |"
    )
    lines = "\n".join(f"# {name}\n{case.changes}" for name, case in CASES.items())
    return "\n".join([head, "|---|---|---|---|---|---:|---:|", *rows, "", f"```yaml\n{lines}```"])


def _format_line(name: str, case: Case, record: dict[str, Any]) -> str:
    metric = record["metric"]
    trivial = f"{_format(metric, record['trivial'])} ({record['trivial']['name']})"
    values = " | ".join(_format(metric, record[method]) for method in METHODS)
    return f"| {name} | {case.model} | {case.data} | {metric} | {trivial} | {values} |"


def _format(metric: str, values: dict[str, Any]) -> str:
    value = values[metric]
    return f"{value:.2f}" if metric in _NOT_IN_PERCENT else f"{100 * value:.1f}"


def main(
    kinds: Annotated[list[Kind], typer.Argument(metavar="KIND")] = tuple(Kind),
    llama: Annotated[Path, typer.Option(help="Folder of the decoder.")] = RUNS / "llama",
    table: Annotated[bool, typer.Option("--table", help="Print the table of all records.")] = False,
) -> None:
    """Run these kinds through the stages; all of them by default."""
    if table:
        print(render_table())
        return
    transformers.logging.disable_progress_bar()
    llama = llama.resolve()
    try:
        for kind in kinds:
            write_json(RESULTS / f"{kind}.json", run(kind, llama))
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
