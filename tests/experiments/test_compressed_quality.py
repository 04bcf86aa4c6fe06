"""The quality of compressed adapters is that of the folders that export writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stage_workspace import load_base_model, write_workspace

import lightpeft
from experiments.compressed_quality import main
from lightpeft import PruningPlan, Scores
from pipeline.common.paths import Paths


def test_sizes_fall_and_the_whole_adapter_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = Paths(write_workspace(tmp_path))
    plan = PruningPlan.load(paths.locate_plan("light"))
    base, _ = load_base_model(tmp_path)
    model = lightpeft.prune(base, plan, Scores.load(paths.scores))
    lightpeft.save(model, paths.locate_model("light"))

    main("light", [0.1, 1.0], tmp_path)

    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["whole", "`--compress 0.1`", "`--compress 1`"]
    whole, small, large = (int(row[1].replace(",", "")) for row in rows)
    assert small < large < whole / 3
    assert all(0 <= float(row[2]) <= 1 for row in rows)
