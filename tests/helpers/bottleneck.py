"""Tiny models with bottleneck adapters, and their scores, plans and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers.tiny_models import draw_random_scores, make_tiny_model, make_uneven_plan
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

import lightpeft
from lightpeft import BottleneckConfig, PruningConfig
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.peft_methods.bottleneck_layer import BottleneckLayer


def attach(model: nn.Module, name: str = "default", **settings: Any) -> PeftModel:
    """The model with adapters of random weights, which change its outputs."""
    torch.manual_seed(0)
    config = BottleneckConfig(**{"r": 3, "init_weights": False} | settings)
    return get_peft_model(model, config, adapter_name=name).eval()


def find_layers(model: nn.Module) -> dict[str, BottleneckLayer]:
    """Path in the base model -> layer with adapters."""
    found = {name: x for name, x in model.named_modules() if isinstance(x, BottleneckLayer)}
    return {name.removeprefix("base_model.model."): layer for name, layer in found.items()}


def draw_scores(model: PreTrainedModel, **settings: Any) -> Scores:
    """Scores of adapters without an estimation."""
    config = BottleneckConfig(**{"r": 4, "scaling": 0.5, "task_type": "SEQ_CLS"} | settings)
    return draw_random_scores(model, config=config)


def save_result(folder: Path, placement: str = "houlsby") -> PeftModel:
    """A pruned model, which is saved."""
    model = make_tiny_model()
    scores = draw_scores(model, placement=placement)
    pruned = lightpeft.prune(model, make_uneven_plan(scores), scores)
    lightpeft.save(pruned, folder)
    return pruned


def make_even_plan(scores: Scores) -> PruningPlan:
    """A plan that `make_plan` makes."""
    config = PruningConfig(heads=0.5, neurons=0.5, modules=0.25, ranks=0.4, criterion="mask")
    return lightpeft.make_plan(scores, config)
