"""A full disk and a signal in every stage: one line, nothing half written, the next run goes on."""

import hashlib
import re
import shutil
import signal
from pathlib import Path

import pytest
from helpers import run_stages
from helpers.stage_process import Trouble, run_stage
from helpers.stage_workspace import save_base
from helpers.tiny_models import make_tiny_model

from pipeline.__main__ import run

STAGES = {
    ("prepare",): ["data/prepared"],
    ("estimate",): ["artifacts/estimate", "artifacts/timing/estimate.json"],
    ("prune", "light"): ["artifacts/plans/light"],
    ("finetune", "light"): ["artifacts/models/light", "artifacts/timing/light.json"],
    ("evaluate", "light"): ["results/eval/light"],
    ("benchmark",): ["results/benchmark.json"],
    ("report",): ["results/plots", "results/report.html"],
}
DURATIONS = {"timing", "benchmark.json"}
FULL = r"error: \S*(data|artifacts|results|checkpoints|tmp)/\S+ can't be written"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [f"{('bad', 'good')[i % 2]} w{i % 60} {'w1 ' * (i % 30)},{i % 2}" for i in range(100)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    save_base(folder, make_tiny_model(pad_token_id=0).base_model)
    (folder / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        data = {"train": "train.csv", "max_truncated": 1.0}
        run_stages.write_small_params(folder, data=data, finetune={"save_every": 5})
        run_stages.run_stages(patch)
    return folder


@pytest.fixture(autouse=True)
def in_copy(finished: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of that folder, outside DVC."""
    shutil.copytree(finished, cwd, dirs_exist_ok=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def digests() -> dict[str, str]:
    """Return the digest of every file; durations differ between runs."""
    return {
        str(path): "duration"
        if DURATIONS & {*path.parts}
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path().rglob("*")
        if path.is_file() and path.parts[0] != "checkpoints"
    }


def remove(output: str) -> None:
    """Remove an output, as DVC does before it runs a stage."""
    path = Path(output)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("stage", STAGES, ids="-".join)
def test_a_stopped_stage_leaves_one_line_and_nothing_half_and_goes_on(stage):
    whole = digests()
    for output in STAGES[stage]:
        remove(output)
    left = digests()

    for trouble, code, line in (
        (Trouble(file_size=450), 1, rf"{FULL}: File too large\n"),
        (Trouble(signal=signal.SIGINT), 130, r"error: stopped by SIGINT; it goes on\n"),
    ):
        found, _, errors = run_stage(stage, trouble)
        assert found == code
        assert re.fullmatch(line, errors), errors
        assert digests() == left

    assert run_stage(stage, Trouble())[::2] == (0, "")
    assert digests() == whole


def test_a_stopped_training_keeps_its_checkpoints_and_resumes():
    stage, whole = ("finetune", "light"), digests()
    remove("artifacts/models/light")
    found, _, errors = run_stage(stage, Trouble(signal=signal.SIGTERM, renames=12))
    kept = sorted(path.name for path in Path("checkpoints").glob("*/checkpoint-*"))
    resumed = run_stage(stage, Trouble())

    assert (found, errors) == (143, "error: stopped by SIGTERM; it goes on\n")
    assert "checkpoint-10" in kept
    assert all((path / "complete.json").exists() for path in Path().glob("checkpoints/*/check*"))
    assert "resuming from" in resumed[1]
    assert resumed[::2] == (0, "")
    assert digests() == whole
    assert not [*Path("checkpoints").iterdir()]


def test_a_disk_that_is_full_when_torch_writes_is_one_line_too():
    adapter = Path("artifacts/models/light/adapter_model.safetensors").stat().st_size
    found, _, errors = run_stage(("finetune", "light"), Trouble(file_size=adapter + 1000))

    assert found == 1
    assert re.fullmatch(rf"{FULL}.*; is the disk full\?\n", errors), errors
    assert not [*Path("checkpoints").iterdir()]


def test_a_disk_that_is_full_when_arrow_closes_a_file_is_one_line_too():
    rows = next(Path("data/prepared/train").glob("*.arrow")).stat().st_size
    found, _, errors = run_stage(("prepare",), Trouble(file_size=rows - 1))

    assert (found, errors) == (1, "error: data/prepared can't be written: File too large\n")


@pytest.mark.parametrize(
    ("stage", "place", "made", "line"),
    [
        ("prepare", "data", "file", "data is a file where a folder should be; move it away"),
        ("prepare", "data/prepared", "file", "data/prepared is a file where a folder should be"),
        ("prune", "artifacts/plans", "file", "artifacts/plans is a file where a folder should be"),
        ("report", "results/plots", "file", "results/plots is a file where a folder should be"),
        ("report", "metrics.json", "folder", "metrics.json is a folder where a file should be"),
    ],
)
def test_a_file_where_a_folder_should_be_is_one_line(stage, place, made, line):
    if place == "data":
        remove("data")
    elif Path(place).exists():
        remove(place)
    Path(place).mkdir() if made == "folder" else Path(place).touch()
    Path(place, "kept").touch() if made == "folder" else None

    with pytest.raises(SystemExit, match=f"^error: {line}"):
        run(*(("prune", "light") if stage == "prune" else (stage,)))
    assert [path.name for path in Path().rglob(".*")] == []
