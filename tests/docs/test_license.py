"""The licence that pyproject.toml names is in the repository and in every built wheel."""

from __future__ import annotations

import tomllib

from helpers.import_graph import ROOT


def test_the_license_text_is_the_one_that_pyproject_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0" in text
    assert "Copyright 2026 The lightpeft authors" in text
