"""What DVC runs again, shown with dvc.yaml and toy commands that write each stage's outputs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from helpers.import_graph import ROOT, find_reached
from helpers.params_file import change_params, override_params
from ruamel.yaml import YAML

from pipeline.__main__ import STAGES

TOY = """
import os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
from pipeline.common.paths import Paths

stage, *outs = sys.argv[1:]
if stage == "benchmark":
    Paths().remove_other_methods(YAML(typ="safe").load(Path("params.yaml"))["methods"])
for out in map(Path, outs):
    file = out if out.suffix else out / "file"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{time.time() if 'timing' in file.parts else out}")
    if os.environ.get("STOPPED") == stage:
        file.with_name("half").touch()
        sys.exit(143)
"""
METHODS = ("light", "vanilla", "random")
# Of each kind one; test_dvc_yaml.py compares the dependencies of all stages with their imports.
FILES = [
    "lightpeft/core/plan.py",
    "lightpeft/planning/cost.py",
    "pipeline/data/catalog/glue.py",
    "pipeline/report/templates/report.html",
    "pipeline/stages/finetune.py",
    "pipeline/__main__.py",
]
MORE_FILES = [
    "lightpeft/modeling/blocks.py",
    "lightpeft/estimation/estimate.py",
    "lightpeft/planning/make_plan.py",
    "lightpeft/pruning/prune.py",
    "lightpeft/profiling/timing.py",
    "lightpeft/benchmark/model_sizes.py",
    "pipeline/common/files.py",
    "pipeline/tasks/base.py",
    "pipeline/data/docstrings/extraction.py",
    "pipeline/metrics/scoring.py",
    "pipeline/training/trainer.py",
    "pipeline/report/html.py",
    *(f"pipeline/stages/{stage}.py" for stage in STAGES if stage != "finetune"),
    "pipeline/presets.py",
    "constraints.txt",
]
NEUTRAL = ["pipeline/__main__.py", "pipeline/presets.py", "constraints.txt"]


def make_project(folder: Path, methods: tuple[str, ...] = METHODS) -> Path:
    """Copy this repository's code and dvc.yaml, with toy commands, and run all stages."""
    for name in ("lightpeft", "pipeline", "data/local"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("params.yaml", "constraints.txt", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "toy.py").write_text(TOY)
    yaml = YAML()
    dvc = yaml.load(ROOT / "dvc.yaml")
    for name, stage in dvc["stages"].items():
        listed = [*stage["outs"], *stage.get("metrics", [])]
        outs = [out if isinstance(out, str) else next(iter(out)) for out in listed]
        stage["cmd"] = " ".join([sys.executable, "toy.py", name, *outs])
    yaml.dump(dvc, folder / "dvc.yaml")
    Repo.init(str(folder), no_scm=True).close()
    change_params(folder, methods=list(methods))
    repro(folder)
    return folder


def repro(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", "repro", "-q", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def stale(folder: Path) -> set[str]:
    """Return the stages whose own dependencies or parameters changed, methods left out."""
    with Repo(str(folder)) as repo:
        return {name.rpartition(":")[2].partition("@")[0] for name in repo.status()}


def hashes(folder: Path) -> dict[str, object]:
    """Return what dvc.lock recorded of the stages that depend on all methods, times left out."""
    lock = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {
        (name, entry["path"]): entry.get("nfiles", entry["md5"])
        if entry["path"] in ("artifacts", "artifacts/timing")
        else entry["md5"]
        for name in ("benchmark", "report")
        for entry in lock[name]["deps"]
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(
    "file", [*FILES, *(pytest.param(file, marks=pytest.mark.long) for file in MORE_FILES)]
)
def test_an_edit_makes_exactly_the_stages_stale_that_reach_the_folder(project, file):
    single = file.startswith("pipeline/stages/")
    room = file if single else "/".join(file.split("/")[:2])
    expected = {
        stage
        for stage in STAGES
        if any(path == room or path.startswith(f"{room}/") for path in _files_of(stage, file))
    }
    path, before = project / file, (project / file).read_text()
    try:
        path.write_text(before + "\n")
        assert stale(project) == (set() if file in NEUTRAL else expected)
    finally:
        path.write_text(before)


def _files_of(stage: str, file: str) -> set[str]:
    """Return the modules of a stage; of planning, the benchmark lists its one file only."""
    modules = find_reached(f"pipeline/stages/{stage}.py")
    single = "lightpeft/planning/cost.py"
    return modules - {single} if stage == "benchmark" and file != single else modules


@pytest.mark.parametrize(
    ("section", "values", "fresh"),
    [
        ("model", {"dtype": "float32"}, {"prepare"}),
        ("evaluate", {"bootstrap": 20}, {*STAGES} - {"evaluate", "report"}),
        ("benchmark", {"rounds": 4}, {*STAGES} - {"benchmark", "report"}),
        ("benchmark", {"length": 16}, {*STAGES} - {"prepare", "prune", "benchmark", "report"}),
    ],
)
def test_a_setting_makes_only_stages_stale_that_read_it(project, section, values, fresh):
    with override_params(project, **{section: values}):
        assert stale(project) == {*STAGES} - fresh


def test_another_duration_of_the_same_training_does_not_run_evaluate_again(project):
    timing = project / "artifacts/timing/light.json"
    before = timing.read_text()

    repro(project, "--force", "--single-item", "finetune@light")

    assert timing.read_text() != before
    assert stale(project) == {"benchmark", "report"}
    repro(project)


def test_a_stage_that_was_stopped_runs_again_without_what_it_had_written(project, monkeypatch):
    half, before = project / "artifacts/models/light/half", hashes(project)
    with monkeypatch.context() as stopped:
        stopped.setenv("STOPPED", "finetune")
        with pytest.raises(AssertionError, match="assert 255 == 0"):
            repro(project, "--force", "--single-item", "finetune@light")
    assert half.exists()
    assert "finetune" in stale(project)

    repro(project)

    assert not half.exists()
    assert hashes(project) == before


@pytest.mark.long
def test_a_method_taken_off_leaves_no_trace_in_any_hash(tmp_path):
    fewer = ("light", "vanilla")
    shrunk = make_project(tmp_path / "shrunk")
    change_params(shrunk, methods=list(fewer))
    repro(shrunk)
    fresh = make_project(tmp_path / "fresh", fewer)

    assert hashes(shrunk) == hashes(fresh)
    assert stale(shrunk) == set()
    outputs = {path.stem for path in shrunk.glob("artifacts/*/*")}
    assert not {"random"} & (outputs | {path.name for path in shrunk.glob("results/eval/*")})
    change_params(shrunk, methods=list(METHODS))
    repro(shrunk)
    assert {path.name for path in shrunk.glob("results/eval/*")} == {*METHODS}
