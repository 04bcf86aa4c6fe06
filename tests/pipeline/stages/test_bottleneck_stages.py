"""Bottleneck adapters go through every stage; what they can not do is refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.exports import reload_here
from helpers.run_stages import read, run_stages, write_small_params
from helpers.stage_workspace import save_base
from helpers.tiny_models import make_tiny_model

from lightpeft.core.bottleneck_choices import NonLinearity, Placement
from lightpeft.core.plan import PruningPlan
from lightpeft.exporting import check
from pipeline.common.artefacts import Evaluation, PlanCost
from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.common.peft_params import PeftSection
from pipeline.common.pruning_params import load_params

PEFT = {"method": "bottleneck", "r": 6, "alpha": 16, "dropout": 0.1, "scaling": 2.0}
PATHS = Paths()
METHODS = ["light", "vanilla", "small", "freeze"]


def write_params(folder: Path, **sections: Any) -> None:
    settings = {"data": {"train": "train.csv"}, "peft": PEFT}
    write_small_params(folder, **(settings | sections))


def test_adapters_are_trained_pruned_measured_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [
        f"{('bad', 'good')[i % 2]} w{i % 60} w{i % 7},{('no', 'yes')[i % 2]}" for i in range(90)
    ]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    save_base(tmp_path, make_tiny_model(pad_token_id=0).base_model)
    write_params(
        tmp_path,
        methods=METHODS,
        peft=PEFT | {"placement": "parallel", "non_linearity": "gelu"},
        finetune={"steps": 60},
        export={"format": "compact"},
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "run_reload", reload_here)

    _, evaluation, _ = run_stages(monkeypatch)

    assert evaluation["accuracy"] > 0.9
    assert evaluation["lifted"] is not None
    plans = {m: PruningPlan.load(PATHS.locate_plan(m)) for m in METHODS}
    assert {plan.peft_type for plan in plans.values()} == {"LIGHTPEFT_BOTTLENECK"}
    assert plans["vanilla"].is_identity
    assert not plans["light"].is_identity
    for method in METHODS:
        cost = PlanCost.read(PATHS.locate_cost(method)).after["total"]
        measured = Evaluation.read(PATHS.locate_evaluation(method))
        assert cost.trainable == measured.trainable_parameters
        assert cost.parameters - cost.trainable == measured.base_parameters
    config = read("artifacts/models/light/adapter_config.json")
    assert (config["placement"], config["non_linearity"]) == ("parallel", "gelu")
    assert (config["dropout"], config["scaling"]) == (0.1, 2.0)
    assert PruningPlan.load(Path("results/export/plan.json")) == plans["light"]


def test_choices_are_those_of_the_library():
    for key, choices in (("placement", Placement), ("non_linearity", NonLinearity)):
        assert get_args(PeftSection.model_fields[key].annotation) == get_args(choices)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"peft": PEFT | {"alpha": 8}}, r"peft\.alpha is for peft\.method: lora and must be 16"),
        ({"peft": PEFT | {"rslora": True}}, r"peft\.rslora is for peft\.method: lora"),
        (
            {"methods": ["vanilla", "qv"]},
            r"methods must not include qv, .* peft\.method: bottleneck",
        ),
        (
            {"finetune": {"lora_plus_ratio": 4.0}},
            r"finetune\.lora_plus_ratio must be 1\.0, got 4\.0",
        ),
        ({"export": {"format": "merged"}}, r"export\.format must be none or compact, got merged"),
    ],
)
def test_what_only_lora_has_is_refused_in_one_line(
    sections: dict[str, Any], message: str, tmp_path: Path
):
    write_params(tmp_path, **sections)

    with pytest.raises(ConfigError, match=message):
        load_params(tmp_path / "params.yaml")
