"""Measure what pruning costs a pretrained decoder after fine-tuning, variant by variant.

    python -m experiments.decoders run arc_easy vanilla prune.ratio=0 --data FOLDER
    python -m experiments.decoders run arc_easy "light 0.2" prune.ratio=0.2 --data FOLDER
    python -m experiments.decoders zero-shot alpaca_9k "light 0.2" piqa --data FOLDER
    python -m experiments.decoders table

The model is SmolLM2-135M-Instruct (`model.name: smollm2`). FOLDER holds train.jsonl and
validation.jsonl of the public data set of that name; the first rows of the latter are the test
split. Every variant trains on the same batches, the estimation's included, and its record is
written when it is done. Rows and estimation are made once per task and seed, with the settings of
the first variant; a variant whose name starts with vanilla or random is that method, any other is
light.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments import healing, trials
from experiments.healing import Healing
from experiments.quality import parse_settings, run_variant
from experiments.settings import ROOT, RUNS, write_params
from lightpeft.core.plan import PruningPlan
from pipeline.common.artefacts import Evaluation, PlanCost
from pipeline.common.data_card import read_rows
from pipeline.common.files import read_json, write_json
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import PruneParams
from pipeline.presets import Sections, merge
from pipeline.stages import estimate, evaluate, prepare

RESULTS = ROOT / "experiments" / "results" / "decoders"
SETTINGS: Sections = {
    "model": {"name": "smollm2"},
    "estimate": {"steps": 50, "batch_size": 8},
    "finetune": {"steps": 200, "batch_size": 8, "evaluate_every": 1000, "save_every": 1000},
    "evaluate": {"batch_size": 8, "lifted": False, "max_new_tokens": 0},
}
# Task -> settings of section `data`.
TASKS: dict[str, dict[str, Any]] = {
    "arc_easy": {"kind": "multiple-choice", "max_length": 96},
    "alpaca_9k": {
        "kind": "text-generation",
        "text": "instruction",
        "label": "output",
        "max_length": 128,
        "max_truncated": 1.0,
    },
    "boolq": {
        "kind": "text-classification",
        "text": ["question", "passage"],
        "label": "label",
        "max_length": 160,
        "max_truncated": 1.0,
    },
    "gsm8k": {
        "kind": "text-generation",
        "text": "question",
        "label": "answer",
        "max_length": 192,
        "max_truncated": 1.0,
    },
}
_TEST_ROWS = 700

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    name: Annotated[str, typer.Argument(help="Of the variant, in the table.")],
    settings: Annotated[list[str], typer.Argument(metavar="SECTION.KEY=VALUE")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    seed: int = 0,
    test_rows: Annotated[int, typer.Option(min=1)] = _TEST_ROWS,
    distill: Annotated[float, typer.Option(min=0, max=1, help="See experiments.trials.")] = 0.0,
    heal: Annotated[int, typer.Option(min=0, help="Batches; see experiments.healing.")] = 0,
    heal_in: Annotated[Healing, typer.Option(help="See experiments.healing.")] = Healing.WEIGHTS,
    rounds: Annotated[int, typer.Option(min=1, help="See experiments.trials.")] = 1,
    calibrate: Annotated[Path | None, typer.Option(help="See experiments.trials.")] = None,
) -> None:
    """Prune, fine-tune and evaluate one variant, and write its record."""
    record = RESULTS / task / f"{name.replace(' ', '-')}-{seed}.json"
    if record.exists():
        print(f"{record} exists")
        return
    files = {"task": "files", "train": str(data.resolve() / "train.jsonl"), "test": "test.jsonl"}
    common = merge(SETTINGS, {"seed": seed, "data": files | TASKS[task]})
    estimated = RUNS / "decoders" / f"{task}-{seed}"
    changes = merge(common, parse_settings(settings))
    if not (estimated / "artifacts").is_dir():
        _estimate(estimated, data.resolve(), changes, test_rows)
    folder = estimated / name.replace(" ", "-")
    for part in ("data/prepared", "artifacts/estimate"):
        shutil.copytree(estimated / part, folder / part, dirs_exist_ok=True)
    os.chdir(folder)
    method = _find_method(name)
    start = time.monotonic()
    write_params(changes)
    with ExitStack() as tried:
        if rounds > 1:
            pruning = PruneParams.load(Paths().params).prune
            config = pruning.make_config(method, seed=seed, decoder=True)
            with trials.estimate_in_rounds(rounds, config):
                estimate.main(Paths())
        if calibrate:
            trials.calibrate(calibrate, batches=25)
        if distill:
            tried.enter_context(trials.distill(distill))
        if heal:
            tried.enter_context(healing.heal(heal, heal_in))
        values = run_variant(method, changes) | read_flop_bounds(Paths(), method)
    values["pruning"] = PruningPlan.load(Paths().locate_plan(method)).settings
    values["minutes"] = round((time.monotonic() - start) / 60, 1)
    head = {"task": task, "variant": name, "seed": seed, "test_rows": test_rows}
    head |= {"distill": distill, "heal": heal, "rounds": rounds}
    head |= {"heal_in": heal_in if heal else None}
    head |= {"calibrate": calibrate and calibrate.parent.name}
    changed = merge(SETTINGS | {"data": TASKS[task]}, parse_settings(settings))
    write_json(record, {**head, "settings": changed, "threads": torch.get_num_threads(), **values})


def _estimate(folder: Path, data: Path, changes: Sections, test_rows: int) -> None:
    """Prepare rows and estimate, in a folder that appears when both are done."""
    partial = folder.with_name(f"{folder.name}.part")
    partial.mkdir(parents=True, exist_ok=True)
    _write_first_lines(data / "validation.jsonl", partial / "test.jsonl", test_rows)
    os.chdir(partial)
    write_params(changes)
    prepare.main(Paths())
    _shorten_validation(Paths().prepared)
    estimate.main(Paths())
    partial.rename(folder)


def _shorten_validation(data: Path) -> None:
    """Keep 64 validation rows: the last weights are evaluated, so that nothing depends on them."""
    rows = read_rows(data, "validation")
    rows.select(range(min(64, len(rows)))).save_to_disk(str(data / "shortened"))
    shutil.rmtree(data / "validation")
    (data / "shortened").rename(data / "validation")


@app.command()
def zero_shot(
    task: Annotated[str, typer.Argument(help="That the variant was trained on.")],
    name: Annotated[str, typer.Argument(help="Of the variant.")],
    other: Annotated[str, typer.Argument(help="A multiple-choice data set it never saw.")],
    data: Annotated[Path, typer.Option(help="Folder of that data set.")],
    seed: int = 0,
    test_rows: Annotated[int, typer.Option(min=1)] = 500,
) -> None:
    """Evaluate a variant that `run` trained on a task that it was not trained on."""
    record = RESULTS / f"{task}_then_{other}" / f"{name.replace(' ', '-')}-{seed}.json"
    if record.exists():
        print(f"{record} exists")
        return
    trained = RUNS / "decoders" / f"{task}-{seed}" / name.replace(" ", "-")
    folder = trained.with_name(f"{trained.name}-{other}")
    shutil.copytree(trained / "artifacts", folder / "artifacts", dirs_exist_ok=True)
    shutil.copyfile(data / "validation.jsonl", folder / "train.jsonl")
    _write_first_lines(data / "validation.jsonl", folder / "test.jsonl", test_rows)
    os.chdir(folder)
    files = {"task": "files", "train": "train.jsonl", "test": "test.jsonl"}
    write_params(merge(SETTINGS, {"seed": seed, "data": files | TASKS["arc_easy"]}))
    prepare.main(Paths())
    method = _find_method(name)
    evaluate.main(method, Paths())
    evaluation = Evaluation.read(Paths().locate_evaluation(method))
    values = {
        "metric": evaluation.metric,
        evaluation.metric: evaluation.metrics[evaluation.metric],
        "interval": evaluation.interval,
        "base_parameters": evaluation.base_parameters,
        "trainable_parameters": evaluation.trainable_parameters,
    } | read_flop_bounds(Paths(), method)
    head = {"task": f"{other}, trained on {task}", "variant": name, "seed": seed}
    write_json(record, {**head, "test_rows": test_rows, **values})


def _find_method(name: str) -> str:
    first = name.split()[0]
    return first if first in ("vanilla", "random") else "light"


def _write_first_lines(source: Path, target: Path, count: int) -> None:
    with source.open(encoding="utf-8") as file:
        target.write_text("".join(itertools.islice(file, count)), encoding="utf-8")


def read_flop_bounds(paths: Paths, method: str) -> dict[str, float]:
    """Return how much faster the pruned model would be if time were proportional to FLOPs."""
    cost = PlanCost.read(paths.locate_cost(method))
    before, after = cost.before["total"], cost.after["total"]
    training = before.training_flops_per_token / after.training_flops_per_token
    inference = before.inference_flops_per_token / after.inference_flops_per_token
    return {"training_bound": round(training, 3), "inference_bound": round(inference, 3)}


@app.command()
def table() -> None:
    """Print all records as a Markdown table; the bounds of speed are by FLOPs."""
    print(
        "| task | variant | test metric | base | trained | training | inference |\n"
        "|---|---|---:|---:|---:|---:|---:|"
    )
    for path in sorted(RESULTS.glob("*/*.json")):
        record = read_json(path)
        metric = record["metric"]
        low, high = record["interval"]
        print(
            f"| {record['task']} | {record['variant']} (seed {record['seed']}) "
            f"| {metric} {record[metric]:.4g} ({low:.4g} to {high:.4g}) "
            f"| {record['base_parameters'] / 1e6:.1f} M "
            f"| {record['trainable_parameters'] / 1e6:.2f} M "
            f"| {record['training_bound']:.2f}x | {record['inference_bound']:.2f}x |"
        )


if __name__ == "__main__":
    app()
