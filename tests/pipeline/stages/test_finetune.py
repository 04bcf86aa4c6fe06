import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_from_disk
from helpers.import_graph import ROOT, find_reached
from helpers.stage_workspace import (
    load_base_model,
    make_card,
    make_tokenizer,
    set_params,
)
from safetensors.torch import load_file

import lightpeft
from pipeline.common.errors import ConfigError, PipelineError
from pipeline.common.paths import Paths
from pipeline.stages import finetune
from pipeline.tasks.registry import make_task

PATHS = Paths()
WEIGHTS = "adapter_model.safetensors"
pytestmark = pytest.mark.usefixtures("in_space")


def copy_plan(method: str, name: str) -> None:
    """Give a method's plan to a method of another name."""
    shutil.copytree(
        PATHS.locate_plan(method).parent, PATHS.locate_plan(name).parent, dirs_exist_ok=True
    )


def run(space: Path, method: str, out: str, **settings) -> Path:
    """The stage, in this process."""
    set_params(space, finetune=settings)
    if out != method:
        copy_plan(method, out)
    finetune.main(out, PATHS)
    return PATHS.locate_model(out)


def curve_of(out: Path) -> list[dict[str, str]]:
    with (out / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def start(space: Path) -> subprocess.Popen:
    """The stage as dvc starts it."""
    command = [sys.executable, "-m", "pipeline", "finetune", "light"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **streams)


def wait_for(pattern: str, process: subprocess.Popen) -> None:
    while not [*Path().glob(pattern)]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_killed_training_resumes_and_ends_with_the_same_weights_and_curve(space):
    settings = {"steps": 400, "save_every": 50, "evaluate_every": 70}
    set_params(space, finetune=settings)
    first = start(space)
    checkpoints = space / "checkpoints"
    wait_for("checkpoints/*/checkpoint-100/complete.json", first)
    with pytest.raises(PipelineError, match=f"process {first.pid} is training in"):
        run(space, "light", "light", **settings)
    first.send_signal(signal.SIGTERM)
    assert first.communicate()[1] == (
        "error: stopped by SIGTERM; dvc repro goes on from here, and finetune from its last "
        "checkpoint\n"
    )
    assert first.returncode == 143
    second = start(space)
    wait_for("checkpoints/*/checkpoint-200/complete.json", second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert not PATHS.locate_model("light").exists()

    third = start(space)
    shown, errors = third.communicate(timeout=100)
    assert third.returncode == 0, errors
    assert "resuming from" in shown

    uninterrupted = run(space, "light", "whole", **settings)
    killed = PATHS.locate_model("light")
    assert (killed / WEIGHTS).read_bytes() == (uninterrupted / WEIGHTS).read_bytes()
    assert (killed / "curve.csv").read_bytes() == (uninterrupted / "curve.csv").read_bytes()
    assert not [*checkpoints.iterdir()]


def test_checkpoints_are_kept_by_the_code_that_finetune_imports_and_by_no_other():
    imported = {str(Path(path).parent) for path in find_reached("pipeline/stages/finetune.py")}

    assert {name.replace(".", "/") for name in finetune.CODE_PACKAGES} == (
        imported - {"pipeline/stages"}
    )


def test_every_method_sees_the_same_number_of_batches_estimation_counted(space):
    light, vanilla = run(space, "light", "light"), run(space, "vanilla", "vanilla")
    timing = [json.loads(PATHS.locate_timing(out.name).read_text()) for out in (light, vanilla)]

    assert [entry["steps"] for entry in timing] == [20, 24]
    assert [entry["warm"] for entry in timing] == [True, False]
    assert curve_of(light)[-1]["step"] == curve_of(vanilla)[-1]["step"] == "24"
    assert all(row["loss"] and row["lr"] for row in curve_of(light))
    assert [row["step"] for row in curve_of(light) if row["validation_metric"]] == ["14", "24"]


def test_a_fresh_start_has_other_weights_but_as_many_batches(space):
    warm, fresh = (run(space, "light", "w"), run(space, "light", "f", warm_start=False))

    assert json.loads(PATHS.locate_timing(fresh.name).read_text())["steps"] == 20
    first, second = (load_file(out / WEIGHTS) for out in (warm, fresh))
    assert {name: w.shape for name, w in first.items()} == {n: w.shape for n, w in second.items()}
    assert curve_of(warm)[0]["loss"] != curve_of(fresh)[0]["loss"]


def test_training_improves_and_the_saved_model_is_the_trained_one(space):
    out = run(space, "vanilla", "good", steps=120)
    validation = load_from_disk("data/prepared/validation")
    model = lightpeft.load(load_base_model(space)[0], out)
    predictions = make_task(make_card()).predict(model, validation, make_tokenizer(), batch_size=7)

    accuracy = (predictions.predictions == predictions.labels).mean()
    assert accuracy == float(curve_of(out)[-1]["validation_metric"]) > 0.9


def test_a_diverged_training_says_what_to_change_and_leaves_what_was_there(space):
    out = run(space, "light", "kept")
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    with pytest.raises(PipelineError, match=r"not a number at batch \d+; lower finetune\.lr"):
        run(space, "light", "kept", lr=1e30)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_an_estimation_that_took_all_steps_is_refused_and_leaves_nothing(space):
    set_params(space, estimate={"steps": 2}, finetune={"steps": 4})
    copy_plan("light", "none")

    with pytest.raises(ConfigError, match=r"finetune\.steps counts the .* 4 steps.*got 4"):
        finetune.main("none", PATHS)
    assert not PATHS.locate_model("none").exists()
    assert not [*(space / "checkpoints").iterdir()]
