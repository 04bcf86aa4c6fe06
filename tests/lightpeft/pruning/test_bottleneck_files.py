"""Results with bottleneck adapters: what is stored, damaged, inspected and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.bottleneck import draw_scores, make_even_plan, save_result
from helpers.exports import reload_here
from helpers.sealing import seal
from helpers.tiny_models import (
    draw_random_scores,
    make_lora,
    make_tiny_model,
)
from safetensors.torch import load_file, save_file

import lightpeft
from lightpeft.contents.facts import make_facts
from lightpeft.contents.recognize import read_contents
from lightpeft.core.errors import CheckpointError, ModelError
from lightpeft.core.plan import PruningPlan
from lightpeft.core.scores import Scores
from lightpeft.exporting import check


def test_scores_and_plans_are_stored_with_their_method(tmp_path: Path):
    scores = draw_scores(make_tiny_model())
    scores.save(tmp_path / "scores")
    plan = make_even_plan(scores)
    plan.save(tmp_path / "plan.json")

    again = Scores.load(tmp_path / "scores")

    assert again.peft == scores.peft
    assert (again.digest, again.peft_type) == (scores.digest, "LIGHTPEFT_BOTTLENECK")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    lora = make_even_plan(draw_random_scores(make_tiny_model(), config=make_lora()))
    lora.save(tmp_path / "lora.json")
    written = [json.loads((tmp_path / name).read_text()) for name in ("plan.json", "lora.json")]
    assert [x.get("peft_type") for x in written] == ["LIGHTPEFT_BOTTLENECK", None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": "lora"}, "damaged: placement: Input should be 'houlsby', 'pfeiffer' or"),
        ({"r": 5}, "rank r 5 is not that of plan.json"),
        ({"dropout": "a"}, "damaged: dropout: Input should be a valid number, got 'a'"),
        ({"block_inputs": {"a": 1}}, "damaged: block_inputs.a: Input should be a valid string"),
        ({"peft_type": "LORA"}, "LoraConfig.block_inputs|LoraConfig.placement|is not supported"),
        ({"exec": "rm"}, "BottleneckConfig.exec is not supported, got 'rm'"),
    ],
)
def test_a_damaged_config_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path):
    save_result(tmp_path / "out")
    path = tmp_path / "out" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    seal(tmp_path / "out")

    with pytest.raises(CheckpointError, match=message):
        lightpeft.load(make_tiny_model(), tmp_path / "out")


@pytest.mark.parametrize("name", ["bottleneck_down.bias", "bottleneck_up.bias"])
def test_a_missing_bias_is_one_line(name: str, tmp_path: Path):
    pruned = save_result(tmp_path / "out")
    path = tmp_path / "out" / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[next(key for key in weights if key.endswith(name))]
    save_file(weights, path, metadata={"plan": lightpeft.get_plan(pruned).digest})
    seal(tmp_path / "out")

    with pytest.raises(CheckpointError, match=rf"{name} must have shape \(.*\), got none"):
        lightpeft.load(make_tiny_model(), tmp_path / "out")


@pytest.mark.parametrize("to", ["merged", "stock", "padded", "lifted"])
def test_exports_that_need_a_merged_or_stock_adapter_are_refused(to: Any, tmp_path: Path):
    pruned = save_result(tmp_path / "out")
    with pytest.raises(ModelError, match=f"format {to}: bottleneck adapters can't be merged"):
        lightpeft.export(pruned, tmp_path / "export", format=to, base=make_tiny_model())


def test_the_compact_export_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "run_reload", reload_here)
    pruned = save_result(tmp_path / "out", "parallel")

    record = lightpeft.export(pruned, tmp_path / "export", format="compact", base=make_tiny_model())

    assert record.max_difference < 1e-4
    assert "- bottleneck-adapter" in (tmp_path / "export" / "README.md").read_text()


def test_inspect_knows_the_modules_of_an_expanded_adapter(tmp_path: Path):
    save_result(tmp_path / "out", "pfeiffer")
    lightpeft.expand_adapter(tmp_path / "out", tmp_path / "full")

    facts = make_facts(read_contents(tmp_path / "full"))

    assert facts["adapter"]["peft_type"] == "LIGHTPEFT_BOTTLENECK"
    assert [*facts["adapter"]["modules"].values()] == [{"rank": 4, "outputs": 32}] * 2
