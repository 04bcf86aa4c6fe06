"""Run one task of each kind through the pipeline's stages, vanilla and light, in one process.

    python -m experiments.kinds [KIND ...] [--llama FOLDER]
    python -m experiments.kinds table

Data files and tiny models are made from installed packages, under
experiments/runs/kinds-KIND/data/local. The kinds likelihood and causal need the model that
`python -m experiments.decoder FOLDER` trains.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from ruamel.yaml import YAML

from experiments.kinds_cases import CASES, DATA, Case
from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.files import read_json, write_json
from pipeline.common.paths import Paths
from pipeline.stages import estimate, evaluate, finetune, prepare, prune

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "kinds"
WORK = ROOT / "experiments" / "runs"
METHODS = ("vanilla", "light")
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    *("networkx", "numpy", "pandas", "scipy", "scikit-learn"),
)
_NOT_IN_PERCENT = ("perplexity", "pearson")


def write_params(changes: str) -> None:
    """Write this repository's params.yaml with these changes into the current folder."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in YAML(typ="safe").load(changes).items():
        params[section].update(values)
    params["evaluate"]["lifted"] = False  # saves time only
    yaml.dump(params, Path("params.yaml"))


def run(name: str, llama: Path) -> dict[str, Any]:
    """Make the data, prepare and estimate once, then prune, fine-tune and evaluate each method."""
    case, folder = CASES[name], WORK / f"kinds-{name}"
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if case.needs:
        _link(DATA / case.needs, llama)
    write_params(case.changes)
    start, cpu = time.monotonic(), time.process_time()
    case.make()
    cpu_of_making = time.process_time() - cpu
    prepare.main(Paths())
    estimate.main(Paths())
    methods = {method: _method(method) for method in METHODS}
    card = DataCard.read(Paths().prepared)
    return {
        "kind": card.kind,
        "metric": card.metric,
        "trivial": {"name": case.baseline[0], card.metric: round(case.baseline[1](), 4)},
        **methods,
        "rows": {split: counts.rows for split, counts in card.splits.items()},
        "settings": YAML(typ="safe").load(Path("params.yaml")),
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


def _method(method: str) -> dict[str, Any]:
    paths = Paths()
    for stage in (prune, finetune, evaluate):
        stage.main(method, paths)
    evaluation = read_json(paths.evaluation(method))
    metrics = DataCard.read(paths.prepared).metrics
    kept = [*metrics, "interval", "base_parameters", "trainable_parameters"]
    return {key: evaluation[key] for key in kept if key in evaluation}


def table() -> str:
    """Return the table of docs/results.md and, below it, the lines of params.yaml of all cases."""
    records = {name: RESULTS / f"{name}.json" for name in CASES}
    rows = [
        _line(name, CASES[name], read_json(path))
        for name, path in records.items()
        if path.is_file()
    ]
    head = (
        "| `python -m experiments.kinds` | model | task | metric | trivial | vanilla | light 1/3 |"
    )
    lines = "\n".join(f"# {name}\n{case.changes}" for name, case in CASES.items())
    return "\n".join([head, "|---|---|---|---|---|---:|---:|", *rows, "", f"```yaml\n{lines}```"])


def _line(name: str, case: Case, record: dict[str, Any]) -> str:
    metric = record["metric"]
    trivial = f"{_format(metric, record['trivial'])} ({record['trivial']['name']})"
    values = " | ".join(_format(metric, record[method]) for method in METHODS)
    return f"| {name} | {case.model} | {case.data} | {metric} | {trivial} | {values} |"


def _format(metric: str, values: dict[str, Any]) -> str:
    value = values[metric]
    return f"{value:.2f}" if metric in _NOT_IN_PERCENT else f"{100 * value:.1f}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*CASES, "table", []], metavar="KIND")
    parser.add_argument("--llama", type=Path, default=WORK / "llama", help="folder of the decoder")
    given = parser.parse_args()
    if "table" in given.kinds and len(given.kinds) > 1:
        parser.error("table stands alone")
    if given.kinds == ["table"]:
        print(table())
        return
    transformers.logging.disable_progress_bar()
    llama = given.llama.resolve()
    try:
        for name in given.kinds or CASES:
            write_json(RESULTS / f"{name}.json", run(name, llama))
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
