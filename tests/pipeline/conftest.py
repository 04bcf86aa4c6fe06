"""Fixtures that tests of several rooms of the pipeline share."""

from pathlib import Path

import pytest
from helpers.stage_workspace import write_workspace


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny classifier, prepared data, params.yaml, scores and plans."""
    return write_workspace(tmp_path_factory.mktemp("space"))


@pytest.fixture
def in_space(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in `space`, outside DVC."""
    monkeypatch.chdir(space)
    monkeypatch.delenv("DVC_ROOT", raising=False)
