"""An estimation in several processes equals that of one process with the same batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.ranks import run_in_processes
from helpers.tiny_models import make_lora, make_tiny_batches, make_tiny_model
from torch import nn

import lightpeft
from lightpeft.core.scores import Scores
from lightpeft.estimation.processes import average_gradients

CONFIG = lightpeft.EstimationConfig(steps=6)


FAMILIES = {
    # Dropout draws a mask for the rows of a process, which no other number of processes would.
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "llama": {"pad_token_id": 0},
}


def estimate_part(rank: int, folder: Path, family: str) -> None:
    torch.manual_seed(rank)  # the PEFT weights of process 0 are shared
    part = slice(2 * rank, 2 * rank + 2)
    batches = [{name: rows[part] for name, rows in b.items()} for b in make_tiny_batches()]
    model = make_tiny_model(family, **FAMILIES[family])
    lightpeft.estimate(model, make_lora(), batches, CONFIG).save(folder / str(rank))


@pytest.mark.parametrize("family", ["bert", pytest.param("llama", marks=pytest.mark.long)])
def test_two_processes_score_as_one_does(tmp_path: Path, family: str):
    run_in_processes(2, estimate_part, tmp_path, family)
    first, second = (Scores.load(tmp_path / str(rank)) for rank in range(2))
    torch.manual_seed(0)
    model, batches = make_tiny_model(family, **FAMILIES[family]), list(make_tiny_batches())
    alone = lightpeft.estimate(model, make_lora(), batches, CONFIG)

    assert first.digest == second.digest
    assert first.curve == second.curve
    for row, expected in zip(first.curve, alone.curve, strict=True):
        # How far masks moved from 1 is as exact as a float32 near 1.
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-7)
    scores, expected = first._collect_tensors(), alone._collect_tensors()
    assert scores.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (scores[name] - tensor).abs().max() <= 1e-6 * tensor.abs().max(), name
    for name, weight in alone.adapter.items():
        torch.testing.assert_close(first.adapter[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def average_some(rank: int, folder: Path) -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.full((2,), float(rank))
    if rank:
        weights[1].grad = torch.full((2,), 3.0)
    average_gradients(weights)
    torch.save([weight.grad for weight in weights], folder / f"{rank}.pt")
    dist.barrier()


def test_a_weight_that_no_process_used_keeps_no_gradient(tmp_path: Path):
    run_in_processes(2, average_some, tmp_path)

    for rank in range(2):
        used, used_by_one, unused = torch.load(tmp_path / f"{rank}.pt")
        assert used.tolist() == [0.5, 0.5]
        assert used_by_one.tolist() == [1.5, 1.5]
        assert unused is None
