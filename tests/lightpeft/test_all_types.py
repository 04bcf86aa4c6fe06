"""Every model type that is matched by structure goes through all phases; pytest -m long."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.import_graph import ROOT
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel

import lightpeft
from docs.model_types import SETTINGS
from lightpeft.modeling.proof import count_needed_layers
from lightpeft.modeling.small_model import build_small_models, make_batches
from lightpeft.support import build_empty_model

TEXT = (ROOT / "docs" / "model_types.md").read_text(encoding="utf-8")
NAMES = [row.split(" | ")[0][2:] for row in TEXT.splitlines() if "| structure |" in row]
FAST = ["gemma", "mpnet", "qwen3_next", "vit_mae", "wav2vec2"]


def floats(value: Any) -> list[Tensor]:
    """Return all floating-point tensors of a model's output."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = [x for name, x in value.items() if name not in ("past_key_values", "loss")]
    return [x for item in value for x in floats(item)] if isinstance(value, list | tuple) else []


def said(model: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)  # some models draw the patches to leave out
    with torch.no_grad():
        return floats(model(**batch))


def small_model(name: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    full = build_empty_model(name, **SETTINGS.get(name, {}))
    for model in build_small_models(full, layers=count_needed_layers(full)):
        for batch in make_batches(model):
            try:
                said(model, batch)
            except Exception:
                continue
            return model, batch
    raise AssertionError(f"no small {name} runs")


def with_loss(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose outputs have a loss, whatever its head."""
    copied: Any = copy.deepcopy(model)
    forward = copied.forward

    def forward_with_loss(**batch: Tensor) -> Any:
        outputs = forward(**batch)
        outputs["loss"] = sum(
            (x * torch.linspace(-1, 1, x.shape[-1])).mean() for x in floats(outputs)
        )
        return outputs

    copied.forward = forward_with_loss
    return copied


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.long) for n in NAMES]
)
def test_type_matched_by_structure_goes_through_all_phases(name: str, tmp_path: Path):
    model, batch = small_model(name)
    config = lightpeft.EstimationConfig(steps=4, lr=1e-3)

    scores = lightpeft.estimate(with_loss(model), LoraConfig(r=4), [batch], config)
    plan = lightpeft.make_plan(scores, lightpeft.PruningConfig(heads=0.5, neurons=0.5))
    pruned = lightpeft.prune(copy.deepcopy(model), plan, scores, verify_batch=batch).eval()
    lightpeft.save(pruned, tmp_path / "out")
    loaded = lightpeft.load(model, tmp_path / "out")

    assert plan.shape.neurons or any(not heads.is_complete for heads in plan.heads.values())
    before, after = (said(x.get_base_model(), batch) for x in (pruned, loaded))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
