"""The losses of two processes average to that of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.architectures import ARCHITECTURES
from helpers.data_cards import make_data_card
from helpers.ranks import run_in_processes
from helpers.tiny_models import make_tiny_config

from pipeline.tasks.base import IGNORED
from pipeline.tasks.loss_parts import make_loss
from pipeline.tasks.registry import make_task


def make_model_and_batch(task_name: str, untrained_rows: int) -> tuple[Any, dict[str, Any]]:
    """A seeded model, and a batch whose first rows have few tokens to predict, or none."""
    torch.manual_seed(0)
    if task_name == "token-classification":
        config = make_tiny_config("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = transformers.AutoModelForTokenClassification.from_config(config)
        labels = torch.randint(0, 2, (4, 9))
    else:
        model = transformers.AutoModelForCausalLM.from_config(
            ARCHITECTURES["llama, shared keys and values"].config()
        )
        labels = torch.randint(3, 40, (4, 9))
    batch = {"input_ids": torch.randint(3, 40, (4, 9)), "labels": labels}
    labels[0, 2:] = IGNORED
    labels[:untrained_rows] = IGNORED
    return model, batch


def run_part(rank: int, folder: Path, task_name: str, untrained_rows: int) -> None:
    model, batch = make_model_and_batch(task_name, untrained_rows)
    part = {name: rows[2 * rank : 2 * rank + 2] for name, rows in batch.items()}
    run(model, task_name, part, folder / f"{rank}.pt")


def run(model: Any, task_name: str, batch: dict[str, Any], file: Path) -> None:
    loss = make_loss(make_task(make_data_card(task_name=task_name)))(model(**batch), batch)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    torch.save([loss.detach(), *gradients], file)


@pytest.mark.parametrize(
    ("task_name", "untrained_rows"), [("causal-lm", 0), ("token-classification", 2)]
)
def test_a_loss_over_tokens_is_weighted_by_tokens(tmp_path: Path, task_name, untrained_rows):
    run_in_processes(2, run_part, tmp_path, task_name, untrained_rows)
    model, batch = make_model_and_batch(task_name, untrained_rows)
    run(model, task_name, batch, tmp_path / "whole.pt")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    for value, first, second in zip(torch.load(tmp_path / "whole.pt"), *parts, strict=True):
        torch.testing.assert_close((first + second) / 2, value, rtol=1e-5, atol=1e-7)
