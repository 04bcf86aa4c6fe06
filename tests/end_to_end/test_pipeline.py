"""The whole pipeline under DVC, on a tiny model and a small file, in a fresh clone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc.repo import Repo
from helpers.import_graph import ROOT
from helpers.params_file import change_params, override_params
from helpers.stage_workspace import make_tokenizer
from helpers.tiny_models import make_tiny_model

from lightpeft.core.benchmark_result import BenchmarkResult
from lightpeft.profiling.memory import can_measure_memory
from pipeline.common.paths import Paths

SETTINGS: dict[str, Any] = {
    "methods": ["light", "vanilla"],
    "data": {"task": "files", "train": "data/local/train.csv", "max_length": 16},
    "peft": {"r": 4},
    "estimate": {"steps": 4, "batch_size": 8},
    "finetune": {"steps": 12, "batch_size": 8, "evaluate_every": 6, "save_every": 6},
    "evaluate": {"bootstrap": 20},
    "benchmark": {"batch_sizes": [2], "length": 8, "warmup": 0, "rounds": 3},
}


def call(folder: Path, *command: str) -> str:
    """Run a command in a folder with this environment's programs; its output."""
    done = subprocess.run(command, cwd=folder, env=_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output thrown away."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, env=_env(), start_new_session=True, **nowhere)


def _env() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def commit(folder: Path) -> None:
    """Commit everything that Git does not ignore."""
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    call(folder, "git", "add", "-A")
    call(folder, "git", *who, "commit", "-q", "-m", "run")


def stages_run(output: str) -> list[str]:
    """Names of the stages whose command a `dvc repro` started."""
    starts = [line for line in output.splitlines() if line.startswith("Running stage '")]
    return [line.split("'")[1] for line in starts]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a fresh clone that has run once and committed its baseline."""
    folder = tmp_path_factory.mktemp("clone")
    listed = call(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    make_tiny_model("bert").save_pretrained(folder / "data" / "local" / "base")
    make_tokenizer().save_pretrained(folder / "data" / "local" / "base")
    words = [f"w{number}" for number in range(60)]
    lines = ["sentence,label"]
    for n in range(200):
        lines.append(f"{('bad', 'good')[n % 2]} {words[n % 60]} {words[n * 7 % 60]},{n % 2}")
    (folder / "data" / "local" / "train.csv").write_text("\n".join(lines) + "\n")
    change_params(folder, model={"name": "data/local/base"}, **SETTINGS)
    call(folder, "git", "init", "-q", "-b", "main")
    commit(folder)
    call(folder, "dvc", "repro")
    commit(folder)
    return folder


def test_a_repeated_repro_runs_nothing(clone):
    assert stages_run(call(clone, "dvc", "repro")) == []


def test_metrics_name_every_method_and_what_it_gained(clone):
    metrics = json.loads((clone / "metrics.json").read_text())

    assert list(metrics) == ["light", "vanilla"]
    assert metrics["light"]["base_parameters"] < metrics["vanilla"]["base_parameters"]
    assert metrics["light"]["trainable_parameters"] < metrics["vanilla"]["trainable_parameters"]
    assert metrics["vanilla"]["train_speedup"] == 1.0


@pytest.mark.skipif(not can_measure_memory(torch.device("cpu")), reason="Linux only")
def test_memory_is_measured_in_a_process_for_each_method(clone):
    methods = BenchmarkResult.load(Paths(clone).benchmark).methods

    assert methods["light"].memory.model_bytes < methods["vanilla"].memory.model_bytes
    assert methods["light"].memory.batch_size == 2


@pytest.mark.long
def test_operators_of_a_step_are_timed_for_each_method(clone):
    options = ("--top", "3", "--rounds", "3")
    table = call(clone, sys.executable, "-m", "experiments.step_profile", *options)

    assert "| operator | light, ms | vanilla, ms |" in table
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert all(float(row.split("|")[2]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("section", "values", "first"),
    [
        ("prune", {"ratio": 0.25}, {"prune@light", "prune@vanilla"}),
        ("finetune", {"lr": 1e-5}, {"finetune@light", "finetune@vanilla"}),
        ("benchmark", {"rounds": 4}, {"benchmark"}),
        ("evaluate", {"bootstrap": 30}, {"evaluate@light", "evaluate@vanilla"}),
        ("estimate", {"l1": 1e-3}, {"estimate"}),
    ],
)
def test_a_changed_setting_invalidates_only_its_own_stages(clone, section, values, first):
    with override_params(clone, **{section: values}):
        with Repo(str(clone)) as repo:
            changed = {name.rpartition(":")[2] for name in repo.status()}

    assert changed == first | {"report"}  # which shows every setting


def test_an_experiment_reruns_what_changed_and_going_back_runs_nothing(clone):
    output = call(clone, "dvc", "exp", "run", "-S", "prune.ratio=0.5")
    ran = set(stages_run(output))
    difference = call(clone, "dvc", "metrics", "diff")
    back = call(clone, "dvc", "exp", "run", "-S", "prune.ratio=auto")

    assert {"prune@light", "finetune@light", "evaluate@light", "benchmark", "report"} <= ran
    assert {"prepare", "estimate", "finetune@vanilla", "evaluate@vanilla"}.isdisjoint(ran)
    assert "light.base_parameters" in difference
    assert "vanilla.base_parameters" not in difference
    assert stages_run(back) == []


def test_shown_experiments_parameters_and_plots_are_there(clone):
    shown = call(clone, "dvc", "exp", "show", "--csv")
    plots = call(clone, "dvc", "plots", "show", "--json")
    with override_params(clone, prune={"ratio": 0.25}):
        difference = call(clone, "dvc", "params", "diff")

    assert "light.test_accuracy" in shown.splitlines()[0]
    assert "prune.ratio" in shown.splitlines()[0]
    assert "results/plots" in plots
    assert "prune.ratio" in difference
    assert "0.25" in difference


@pytest.mark.long
def test_queued_experiments_run_in_the_background(clone):
    call(clone, "dvc", "exp", "run", "--queue", "-S", "prune.ratio=0.25,0.4")
    call(clone, "dvc", "queue", "start")
    end = time.monotonic() + 300
    while time.monotonic() < end:
        status = call(clone, "dvc", "queue", "status")
        if status.count("Success") == 2 or "Failed" in status:
            break
        time.sleep(2)

    assert status.count("Success") == 2, status
    assert {"0.25", "0.4"} <= set(
        call(clone, "dvc", "exp", "show", "--csv").replace("\n", ",").split(",")
    )


def test_a_run_killed_with_everything_resumes_at_the_next_repro(clone):
    with override_params(clone, finetune={"steps": 300, "save_every": 20}):
        running = start(clone, "dvc", "repro", "finetune@light")
        while not [*clone.glob("checkpoints/finetune-light-*/checkpoint-*/complete.json")]:
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        output = call(clone, "dvc", "repro", "finetune@light")

    assert "resuming from" in output
    assert stages_run(call(clone, "dvc", "repro")) == []
