"""Stage `finetune`: a plan, the estimation's weights and data -> a pruned, trained adapter."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd
import peft
import torch
import transformers

from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.pruning import checkpoint
from lightpeft.pruning.prune import prune
from pipeline.common.artefacts import Timing
from pipeline.common.console import log, seed_everything
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.files import write_text
from pipeline.common.params import FinetuneParams
from pipeline.common.paths import Paths
from pipeline.common.text import quantify
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.training.checkpoints import delete_checkpoints, find_checkpoint_folder, lock_folder
from pipeline.training.trainer import TrainingData, train

COLUMNS = ("step", "loss", "lr", "validation_loss", "validation_metric")
# The packages that this stage imports from; a test compares them with its real imports.
CODE_PACKAGES = (
    "lightpeft.core",
    "lightpeft.modeling",
    "lightpeft.pruning",
    "pipeline.common",
    "pipeline.metrics",
    "pipeline.tasks",
    "pipeline.training",
)


def main(method: str, paths: Paths) -> None:
    """Prune, fine-tune and save one method; a killed training resumes from its checkpoint."""
    transformers.logging.set_verbosity_error()
    params, data = FinetuneParams.load(paths.params), paths.prepared
    scores, plan = Scores.load(paths.scores), PruningPlan.load(paths.locate_plan(method))
    inputs = [data / "card.json", data / "train", data / "validation", paths.locate_plan(method)]
    inputs += [paths.scores / "scores.json", *sorted(paths.scores.glob("*.safetensors"))]
    inputs += _list_code_paths()
    versions = [torch.__version__, transformers.__version__, peft.__version__]
    settings = params.model_dump() | {"versions": versions}
    folder = find_checkpoint_folder(f"finetune-{method}", inputs, settings)
    with lock_folder(folder):
        task = make_task(DataCard.read(data), title=f"finetune {method}, validation")
        # A model for which no score decided starts from initial weights and is trained for all
        # steps. For the others, the estimation's steps count even if `warm_start: false` drops
        # its weights.
        warm = params.finetune.warm_start and plan.follows_estimation
        training_data = TrainingData(
            name=f"finetune {method}",
            task=task,
            processor=load_processor(params.model, task),
            train=read_rows(data, "train"),
            validation=read_rows(data, "validation"),
            estimation_steps=scores.steps if plan.follows_estimation else 0,
        )
        model, _ = load_model(params.model, task, params.seed)
        seed_everything(params.seed)
        model = prune(model, plan, scores, warm_start=warm)
        trained = train(model, training_data, params.finetune, seed=params.seed, folder=folder)
        checkpoint.save(model, paths.locate_model(method))
        curve = pd.DataFrame(trained.curve, columns=COLUMNS)
        write_text(paths.locate_curve(method), curve.to_csv(index=False, lineterminator="\n"))
        timing = Timing(seconds=round(trained.seconds, 3), steps=trained.steps, warm=warm)
        timing.write(paths.locate_timing(method))
        delete_checkpoints(folder)
    batches = quantify(trained.steps, "batch", "batches")
    log(training_data.name, f"{batches} in {trained.seconds:.0f} s")


def _list_code_paths() -> list[Path]:
    """Return the code that decides the trained weights: a change of it invalidates checkpoints."""
    folders = [Path(str(import_module(name).__file__)).parent for name in CODE_PACKAGES]
    return [Path(__file__), *folders]
