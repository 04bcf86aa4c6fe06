"""Stage `finetune`: a plan, the estimation's weights and data -> a pruned, trained adapter."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pandas as pd
import peft
import torch
import transformers

from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.pruning.prune import prune
from pipeline.common.artefacts import Timing, UnprunedMethod
from pipeline.common.console import log, seed_everything
from pipeline.common.data_card import DataCard, read_rows
from pipeline.common.files import write_text
from pipeline.common.methods import has_plan
from pipeline.common.params import FinetuneParams
from pipeline.common.paths import Paths
from pipeline.common.ranks import is_main_process
from pipeline.common.text import quantify
from pipeline.tasks import method_models
from pipeline.tasks.model_loading import load_model, load_processor
from pipeline.tasks.registry import make_task
from pipeline.training.checkpoints import delete_checkpoints, find_checkpoint_folder, lock_folder
from pipeline.training.trainer import train
from pipeline.training.training_data import TrainingData

COLUMNS = ("step", "loss", "lr", "validation_loss", "validation_metric")
# The packages that this stage imports from; a test compares them with its real imports.
CODE_PACKAGES = (
    "lightpeft.acceleration",
    "lightpeft.core",
    "lightpeft.modeling",
    "lightpeft.peft_methods",
    "lightpeft.pruning",
    "pipeline.common",
    "pipeline.metrics",
    "pipeline.tasks",
    "pipeline.training",
)


@dataclass(frozen=True)
class _Start:
    """What a method starts from.

    Attributes:
        path: of the file that the method was read from.
        method: its plan, or what it trains without one.
        scores: of the estimation.
    """

    path: Path
    method: PruningPlan | UnprunedMethod
    scores: Scores

    @classmethod
    def read(cls, paths: Paths, method: str) -> _Start:
        scores = Scores.load(paths.scores)
        if has_plan(method):
            path = paths.locate_plan(method)
            return cls(path, PruningPlan.load(path), scores)
        path = paths.locate_unpruned(method)
        return cls(path, UnprunedMethod.read(path), scores)

    @property
    def estimation_steps(self) -> int:
        """Steps of the estimation that its training continues; 0: it starts from initial weights.

        They count even if `warm_start: false` drops the estimation's weights.
        """
        follows = isinstance(self.method, PruningPlan) and self.method.follows_estimation
        return self.scores.steps if follows else 0

    @property
    def settings(self) -> dict[str, float]:
        """Settings of section `finetune` that are this method's own."""
        lr = self.method.lr if isinstance(self.method, UnprunedMethod) else None
        return {} if lr is None else {"lr": lr}


def main(method: str, paths: Paths) -> None:
    """Prune, fine-tune and save one method; a killed training resumes from its checkpoint.

    Of several processes, each trains on its part of every batch, and one validates and writes.
    """
    transformers.logging.set_verbosity_error()
    params, data = FinetuneParams.load(paths.params), paths.prepared
    start = _Start.read(paths, method)
    inputs = [data / "card.json", data / "train", data / "validation", start.path]
    inputs += [paths.scores / "scores.json", *sorted(paths.scores.glob("*.safetensors"))]
    inputs += _list_code_paths()
    versions = [torch.__version__, transformers.__version__, peft.__version__]
    decisive = params.model_dump() | {"versions": versions}
    folder = find_checkpoint_folder(f"finetune-{method}", inputs, decisive)
    with lock_folder(folder):
        task = make_task(DataCard.read(data), title=f"finetune {method}, validation")
        warm = params.finetune.warm_start and start.estimation_steps > 0
        training_data = TrainingData(
            name=f"finetune {method}",
            task=task,
            processor=load_processor(params.model, task),
            train=read_rows(data, "train"),
            validation=read_rows(data, "validation"),
            estimation_steps=start.estimation_steps,
        )
        model, head = load_model(params.model, task, params.seed)
        seed_everything(params.seed)
        if isinstance(start.method, UnprunedMethod):
            model = method_models.attach(model, start.method, task, head)
        else:
            model = prune(model, start.method, start.scores, warm_start=warm)
        settings = params.finetune.model_copy(update=start.settings)
        trained = train(model, training_data, settings, seed=params.seed, folder=folder)
        if not is_main_process():
            return
        method_models.save(model, paths.locate_model(method))
        curve = pd.DataFrame(trained.curve, columns=COLUMNS)
        write_text(paths.locate_curve(method), curve.to_csv(index=False, lineterminator="\n"))
        # So that the result can be used elsewhere.
        task.card.without_rows().write(paths.locate_model(method))
        timing = Timing(seconds=round(trained.seconds, 3), steps=trained.steps, warm=warm)
        timing.write(paths.locate_timing(method))
        delete_checkpoints(folder)
    batches = quantify(trained.steps, "batch", "batches")
    log(training_data.name, f"{batches} in {trained.seconds:.0f} s")


def _list_code_paths() -> list[Path]:
    """Return the code that decides the trained weights: a change of it invalidates checkpoints."""
    folders = [Path(str(import_module(name).__file__)).parent for name in CODE_PACKAGES]
    return [Path(__file__), *folders]
