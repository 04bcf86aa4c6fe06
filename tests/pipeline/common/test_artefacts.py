import json
from pathlib import Path
from typing import Any

import pytest
from helpers.import_graph import ROOT

from pipeline.common.artefacts import Evaluation, RunSummary
from pipeline.common.errors import PipelineError
from pipeline.common.files import write_json

EVALUATION: dict[str, Any] = {
    "split": "test",
    "rows": 30,
    "metric": "accuracy",
    "accuracy": 0.8,
    "f1": 0.7,
    "interval": [0.75, 0.85],
    "labels": ["no", "yes"],
    "positive_class": "yes",
    "confusion": [[10, 2], [4, 14]],
    "base_parameters": 1000,
    "trainable_parameters": 100,
    "lifted": None,
}


def write(folder: Path, **changes: Any) -> Path:
    """Write an evaluation with these entries changed."""
    path = folder / "eval.json"
    path.write_text(json.dumps(EVALUATION | changes))
    return path


def test_keys_that_are_no_attribute_are_metrics(tmp_path):
    evaluation = Evaluation.read(write(tmp_path))

    assert evaluation.metrics == {"accuracy": 0.8, "f1": 0.7}
    assert evaluation.interval == (0.75, 0.85)
    assert evaluation.confusion == ((10, 2), (4, 14))


def test_what_was_read_is_written_with_the_same_bytes(tmp_path):
    write_json(tmp_path / "before.json", EVALUATION)
    Evaluation.read(tmp_path / "before.json").write(tmp_path / "after.json")

    assert (tmp_path / "after.json").read_bytes() == (tmp_path / "before.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "key"), [({"rows": "many"}, "rows"), ({"accuracy": "high"}, r"metrics\.accuracy")]
)
def test_a_damaged_evaluation_is_one_line_with_its_key(tmp_path, change, key):
    with pytest.raises(PipelineError, match=rf"^\S+eval\.json is damaged \({key}: [^\n]*$"):
        Evaluation.read(write(tmp_path, **change))


def test_a_missing_evaluation_is_one_line(tmp_path):
    with pytest.raises(PipelineError, match=r"^\S+eval\.json does not exist[^\n]*$"):
        Evaluation.read(tmp_path / "eval.json")


def test_the_metrics_of_this_repository_are_written_with_the_same_bytes(tmp_path):
    RunSummary.read(ROOT / "metrics.json").write(tmp_path / "metrics.json")

    assert (tmp_path / "metrics.json").read_bytes() == (ROOT / "metrics.json").read_bytes()


def test_a_damaged_summary_is_one_line_with_its_method_and_key(tmp_path):
    raw = json.loads((ROOT / "metrics.json").read_text())
    raw["vanilla"]["train_speedup"] = "fast"
    write_json(tmp_path / "metrics.json", raw)

    damage = r"^\S+metrics\.json is damaged \(methods\.vanilla\.train_speedup: [^\n]*$"
    with pytest.raises(PipelineError, match=damage):
        RunSummary.read(tmp_path / "metrics.json")
