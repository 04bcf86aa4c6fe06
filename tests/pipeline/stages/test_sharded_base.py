"""A base that two processes share is trained as one that a single process has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.generation_workspace import draw_copying_rows, write_workspace
from helpers.ranks import run_stage_in_processes
from helpers.shared_stages import PATHS, WEIGHTS, read_curve
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from lightpeft.core.scores import Scores
from pipeline.stages import estimate, finetune, prepare, prune

TRAINING = {
    "steps": 13,
    "batch_size": 8,
    "gradient_accumulation": 2,
    "gradient_checkpointing": True,
    "evaluate_every": 4,
    "best_checkpoint": True,  # it is loaded again at the end
}


def record_sizes(rank: int) -> None:
    """Let this process write the numbers of frozen weights that there are, and that it holds."""
    train = finetune.train

    def train_and_count(model, *arguments, **options):
        result = train(model, *arguments, **options)
        frozen = [weight for weight in model.parameters() if not weight.requires_grad]
        parts = [w.to_local() if isinstance(w, DTensor) else w for w in frozen]
        torch.save([sum(w.numel() for w in kind) for kind in (frozen, parts)], f"{rank}.pt")
        return result

    finetune.train = train_and_count


@pytest.mark.long
def test_a_shared_base_is_estimated_pruned_trained_and_saved_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    settings = {"peft": {"r": 4, "dropout": 0.0}, "finetune": TRAINING}
    write_workspace(tmp_path, "llama", draw_copying_rows(120), **settings)
    prepare.main(PATHS)
    estimate.main(PATHS)
    alone = Scores.load(PATHS.scores)
    assert run_stage_in_processes(2, "estimate", LIGHTPEFT_SHARD="1") == [0, 0]
    shared = Scores.load(PATHS.scores)
    assert shared.fingerprint == alone.fingerprint
    for name, expected in alone._collect_tensors().items():
        atol = 1e-6 * float(expected.abs().max())
        found = shared._collect_tensors()[name]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=atol, msg=name)

    prune.main("light", PATHS)
    finetune.main("light", PATHS)
    weights, curve = load_file(PATHS.locate_model("light") / WEIGHTS), read_curve()
    done = run_stage_in_processes(2, "finetune", "light", watch=record_sizes, LIGHTPEFT_SHARD="1")
    assert done == [0, 0]
    saved = load_file(PATHS.locate_model("light") / WEIGHTS)
    assert saved.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(saved[name], weight, rtol=1e-5, atol=1e-6)
    for row, expected in zip(read_curve(), curve, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    for rank in range(2):
        total, own = torch.load(f"{rank}.pt")
        assert own < 0.6 * total
