"""`LIGHTPEFT_PROCESSES=2`, as a user types it: each process imports everything for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.import_graph import ROOT
from helpers.run_stages import check_error
from helpers.shared_stages import PATHS, WEIGHTS, enter_quiet_workspace, read_curve
from helpers.stage_workspace import set_params
from safetensors.torch import load_file

from pipeline.common.ranks import PROCESSES
from pipeline.stages import finetune

pytestmark = pytest.mark.long


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without dropout, as the current folder."""
    return enter_quiet_workspace(tmp_path, monkeypatch, steps=200, save_every=40, evaluate_every=40)


def start(*words: str) -> subprocess.Popen[str]:
    """A stage in two processes, as dvc starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), PROCESSES: "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def find_process(parent: int, rank: int) -> int:
    """The process with this rank that another one started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            started_by = (path / "stat").read_text().rpartition(")")[2].split()[1]
            if int(started_by) == parent and f"RANK={rank}" in (
                (path / "environ").read_text().split("\0")
            ):
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"process {parent} started no process of rank {rank}")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_ends_the_run_which_goes_on_and_equals_one_process(quiet: Path, number):
    first = start("finetune", "light")
    while not [*Path().glob("checkpoints/*/checkpoint-80/complete.json")]:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    killed = first.pid if number == signal.SIGTERM else find_process(first.pid, 1)
    os.kill(killed, number)
    errors = first.communicate()[1]
    if number == signal.SIGTERM:
        assert errors.startswith("error: stopped by SIGTERM; dvc repro goes on from here")
        assert first.returncode == 143
    else:
        assert errors == (
            "error: process 2 of 2 of finetune light was killed (signal 9); "
            "run the command again to go on\n"
        )
        assert first.returncode == 1
    assert errors.count("\n") == 1

    second = start("finetune", "light")
    shown, errors = second.communicate()
    assert (second.returncode, errors) == (0, "")
    assert shown.count("resuming from") == 1
    weights, curve = load_file(PATHS.locate_model("light") / WEIGHTS), read_curve()
    assert not [*Path("checkpoints").iterdir()]

    finetune.main("light", PATHS)
    for name, weight in load_file(PATHS.locate_model("light") / WEIGHTS).items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)
    for row, expected in zip(curve, read_curve(), strict=True):
        assert row == pytest.approx(expected, rel=1e-3)


def test_a_mistake_is_one_line_of_both_processes(quiet: Path, monkeypatch):
    monkeypatch.setenv(PROCESSES, "2")
    set_params(quiet, estimate={"steps": 4, "batch_size": 7})

    check_error(
        quiet,
        "estimate",
        message="estimate.batch_size must be a multiple of the number of processes, 2, got 7",
    )
