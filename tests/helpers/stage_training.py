"""The training of the stage `finetune` in a workspace, without the stage around it."""

from __future__ import annotations

from pathlib import Path

from helpers.stage_workspace import SPLITS, draw_rows, make_card, make_tokenizer
from peft import PeftModel
from torch import Tensor

from lightpeft.core.scores import Scores
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.tasks.registry import make_task
from pipeline.training import trainer as training
from pipeline.training.training_data import TrainingData


def train_in_space(space: Path, model: PeftModel, folder: Path) -> training.TrainingResult:
    """Train a classifier as the stage does, by the workspace's params, and keep the checkpoints."""
    data = TrainingData(
        name="test",
        task=make_task(make_card()),
        processor=make_tokenizer(),
        train=draw_rows(SPLITS["train"], seed=0),
        validation=draw_rows(SPLITS["validation"], seed=1),
        estimation_steps=Scores.load(Paths(space).scores).steps,
    )
    section = load_params(space / "params.yaml").finetune
    return training.train(model, data, section, seed=0, folder=folder)


def get_trained_weights(model: PeftModel) -> dict[str, Tensor]:
    """The weights that a training changes, by name."""
    return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}
