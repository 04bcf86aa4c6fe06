import errno
import os
import runpy
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import PipelineError, TrainingError
from pipeline.common.files import write_json
from pipeline.training import checkpoints
from pipeline.training.checkpoints import (
    find_checkpoint_folder,
    find_latest_checkpoint,
    lock_folder,
    mark_complete,
)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with two complete checkpoints, of 5 and 10 steps and as many seconds."""
    for steps in (5, 10):
        folder = tmp_path / f"checkpoint-{steps}"
        folder.mkdir()
        (folder / "optimizer.pt").write_text(f"state {steps}")
        write_json(folder / "trainer_state.json", {"best_model_checkpoint": None})
        mark_complete(folder, float(steps))
    return tmp_path


def test_the_newest_complete_checkpoint_is_taken(trained):
    assert find_latest_checkpoint(trained) == (trained / "checkpoint-10", 10.0)


@pytest.mark.parametrize("damage", ["changed", "file missing", "marker missing", "marker cut"])
def test_a_damaged_checkpoint_is_deleted_and_the_one_before_is_taken(trained, damage):
    newest = trained / "checkpoint-10"
    if damage == "changed":
        (newest / "optimizer.pt").write_text("state")
    elif damage == "file missing":
        (newest / "optimizer.pt").unlink()
    elif damage == "marker missing":
        (newest / "complete.json").unlink()
    else:
        os.truncate(newest / "complete.json", 10)

    assert find_latest_checkpoint(trained) == (trained / "checkpoint-5", 5.0)
    assert not newest.exists()


def test_a_checkpoint_that_names_a_damaged_best_one_is_deleted(trained):
    newest = trained / "checkpoint-10"
    write_json(newest / "trainer_state.json", {"best_model_checkpoint": "elsewhere/checkpoint-5"})
    mark_complete(newest, 10.0)
    (trained / "checkpoint-5" / "optimizer.pt").write_text("changed")

    assert find_latest_checkpoint(trained) == (None, 0.0)
    assert not newest.exists()


def test_a_read_error_is_raised_and_the_checkpoint_is_kept(trained, monkeypatch):
    def stale(path: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(checkpoints, "hash_file", stale)

    with pytest.raises(TrainingError, match=r"^\S+/checkpoint-10 can't be read [^\n]*Stale[^\n]*$"):
        find_latest_checkpoint(trained)
    assert {path.name for path in trained.iterdir()} == {"checkpoint-5", "checkpoint-10"}
    assert (trained / "checkpoint-10" / "optimizer.pt").is_file()


def test_a_locked_folder_is_refused_with_the_pid_of_its_holder(tmp_path):
    with lock_folder(tmp_path / "one"):
        with pytest.raises(PipelineError, match=rf"process {os.getpid()} is training in .*one"):
            with lock_folder(tmp_path / "one"):
                raise AssertionError
        with lock_folder(tmp_path / "two"):
            pass
    with lock_folder(tmp_path / "one"):
        pass
    assert not [*tmp_path.iterdir()]


def test_locking_needs_no_module_of_unix(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)

    assert "lock_folder" in runpy.run_path(checkpoints.__file__)


def test_inputs_or_settings_that_differ_give_another_folder(tmp_path):
    file = tmp_path / "data" / "rows"
    file.parent.mkdir()
    file.write_text("a")
    before = find_checkpoint_folder("finetune-light", [file.parent], {"lr": 1})

    assert before == find_checkpoint_folder("finetune-light", [file.parent], {"lr": 1})
    assert before.name.startswith("finetune-light-")
    assert before != find_checkpoint_folder("finetune-light", [file.parent], {"lr": 2})
    file.write_text("b")
    assert before != find_checkpoint_folder("finetune-light", [file.parent], {"lr": 1})


def test_a_file_in_a_subfolder_decides_the_folder_but_compiled_code_does_not(tmp_path):
    code = tmp_path / "training"
    (code / "deeper").mkdir(parents=True)
    (code / "deeper" / "trainer.py").write_text("lr = 1")
    before = find_checkpoint_folder("finetune-light", [code], {})

    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "trainer.pyc").write_bytes(b"\0")
    assert find_checkpoint_folder("finetune-light", [code], {}) == before
    (code / "deeper" / "trainer.py").write_text("lr = 2")
    assert find_checkpoint_folder("finetune-light", [code], {}) != before


def test_checkpoints_lie_in_the_folder_where_dvc_runs(monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert find_checkpoint_folder("finetune-light", [], {}).parent == Path("checkpoints")
    monkeypatch.setenv("DVC_ROOT", "/repository")
    assert find_checkpoint_folder("finetune-light", [], {}).parent == Path(
        "/repository/checkpoints"
    )
