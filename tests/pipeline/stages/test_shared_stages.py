"""Stages that two processes run together equal those of one process."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.ranks import make_rank_environment, run_stage_in_processes
from helpers.shared_stages import PATHS, WEIGHTS, enter_quiet_workspace, read_curve
from safetensors.torch import load_file

from lightpeft.core.scores import Scores
from lightpeft.modeling.adapters import get_adapter_state_dict
from pipeline.__main__ import run
from pipeline.common import processes
from pipeline.common.errors import ConfigError
from pipeline.common.launcher import launch
from pipeline.stages import finetune


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without dropout, of which processes draw their own, with its estimation."""
    return enter_quiet_workspace(tmp_path, monkeypatch, steps=12, evaluate_every=6, save_every=6)


def record_weights(rank: int) -> None:
    """Let this process write the weights that it ends with."""
    train = finetune.train

    def train_and_record(model, *arguments, **options):
        result = train(model, *arguments, **options)
        torch.save(get_adapter_state_dict(model), f"weights-{rank}.pt")
        return result

    finetune.train = train_and_record


def test_two_processes_estimate_and_finetune_as_one_does(quiet: Path):
    alone = Scores.load(PATHS.scores)
    finetune.main("light", PATHS)
    weights, curve = load_file(PATHS.locate_model("light") / WEIGHTS), read_curve()
    shutil.rmtree(PATHS.locate_model("light"))
    shutil.copytree(PATHS.scores, "alone")

    assert run_stage_in_processes(2, "estimate") == [0, 0]
    together = Scores.load(PATHS.scores)._collect_tensors()
    for name, expected in alone._collect_tensors().items():
        atol = 1e-6 * float(expected.abs().max())
        torch.testing.assert_close(together[name], expected, rtol=1e-6, atol=atol, msg=name)

    shutil.rmtree(PATHS.scores)
    shutil.copytree("alone", PATHS.scores)
    assert run_stage_in_processes(2, "finetune", "light", watch=record_weights) == [0, 0]
    first, second = (torch.load(f"weights-{rank}.pt") for rank in range(2))
    saved = load_file(PATHS.locate_model("light") / WEIGHTS)
    assert saved.keys() == weights.keys() == first.keys()
    for name, weight in weights.items():
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], saved[name])
        torch.testing.assert_close(saved[name], weight, rtol=1e-5, atol=1e-6)
    for row, expected in zip(read_curve(), curve, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    assert not list(Path("checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("estimate",), "estimate.batch_size must be a multiple of the number of processes, 3"),
        (("prune", "light"), "3 processes can run estimate or finetune, got prune; run it in one"),
    ],
)
def test_what_processes_can_not_share_is_one_line(in_space, monkeypatch, arguments, line):
    for name, value in make_rank_environment(3)[0].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "join_processes", nullcontext)

    with pytest.raises(SystemExit, match=f"^error: {line}"):
        run(*arguments)


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5", ""])
def test_a_wrong_number_of_processes_is_one_line(in_space, monkeypatch, value):
    monkeypatch.setenv("LIGHTPEFT_PROCESSES", value)

    with pytest.raises(SystemExit, match=f"^error: LIGHTPEFT_PROCESSES must be .*, got {value}$"):
        run("estimate")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(ConfigError, match="LIGHTPEFT_PROCESSES must be at most 1, as many as GPUs"):
        launch(2, ["estimate"])
