"""Exports whose check runs in this process."""

import pytest
from helpers.exports import reload_here

from lightpeft.exporting import check


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a check load the export in this process: a fresh one takes seconds."""
    monkeypatch.setattr(check, "run_reload", reload_here)
