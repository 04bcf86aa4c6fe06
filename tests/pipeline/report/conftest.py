"""A run with the defaults, reported once."""

from pathlib import Path

import pytest
from helpers.fake_run import write_reported_run


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run with the defaults was reported."""
    root = tmp_path_factory.mktemp("usual")
    write_reported_run(root)
    return root


@pytest.fixture(scope="module")
def page(usual: Path) -> str:
    """The page of that run."""
    return (usual / "results" / "report.html").read_text(encoding="utf-8")
