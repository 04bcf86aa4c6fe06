"""Artefacts of another run, and damaged ones: one line and exit code 1 from every stage."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from helpers.stage_workspace import ROOT, set_params, tokenizer, workspace

from lightpeft.core.errors import ModelError
from pipeline.stages import finetune, prune

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return workspace(tmp_path_factory.mktemp("space"))


@pytest.fixture(autouse=True)
def _there(space, monkeypatch):
    monkeypatch.chdir(space)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def _foreign_plan(space: Path) -> tuple[str, ...]:
    plan = json.loads((space / "plans" / "light.json").read_text())
    (space / "plans" / "foreign.json").write_text(json.dumps(plan | {"scores": "0" * 16}))
    return ("finetune", "prepared", "estimate", "plans/foreign.json", "models/none")


def _cut_plan(space: Path) -> tuple[str, ...]:
    text = (space / "plans" / "light.json").read_text()
    (space / "plans" / "cut.json").write_text(text[: len(text) // 2])
    return ("finetune", "prepared", "estimate", "plans/cut.json", "models/none")


def _foreign_weights(space: Path) -> tuple[str, ...]:
    for method, out in (("light", "mixed"), ("vanilla", "other")):
        finetune.main("prepared", "estimate", f"plans/{method}.json", f"models/{out}")
    shutil.copy(space / "models" / "other" / WEIGHTS, space / "models" / "mixed" / WEIGHTS)
    return ("evaluate", "prepared", "models/mixed", "eval/none")


def _damaged_rows(space: Path) -> tuple[str, ...]:
    shutil.copytree(space / "prepared", space / "damaged", dirs_exist_ok=True)
    os.truncate(next((space / "damaged" / "train").glob("*.arrow")), 10)
    return ("finetune", "damaged", "estimate", "plans/light.json", "models/none")


def _emptied_card(space: Path) -> tuple[str, ...]:
    shutil.copytree(space / "prepared", space / "emptied", dirs_exist_ok=True)
    (space / "emptied" / "card.json").write_text("{}")
    return ("estimate", "emptied", "none", "none.json")


def _unsupported(space: Path) -> tuple[str, ...]:
    config = transformers.CTRLConfig(n_embd=8, n_layer=1, n_head=2, dff=8, vocab_size=20)
    config.pad_token_id = 0
    transformers.CTRLForSequenceClassification(config).save_pretrained(space / "ctrl")
    tokenizer().save_pretrained(space / "ctrl")
    set_params(space, model={"name": "ctrl"})
    return ("estimate", "prepared", "none", "none.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_foreign_plan, "the plan was made from scores 0000000000000000, but these scores are"),
        (_cut_plan, "plans/cut.json is not readable JSON"),
        (_foreign_weights, "models/mixed/adapter_model.safetensors was not saved with the plan"),
        (_damaged_rows, "damaged/train is damaged or missing"),
        (_emptied_card, "emptied/card.json lacks kind, labels, metric, metrics, select"),
        (_unsupported, "model type 'ctrl' is not supported; supported: "),
    ],
)
def test_wrong_artefacts_are_one_line_and_exit_code_1(space, damage, message):
    set_params(space)
    arguments = damage(space)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not [path for path in (space / "models/none", space / "none") if path.exists()]


def test_a_cut_that_is_not_the_mask_stops_the_stage_and_leaves_what_was_there(space, monkeypatch):
    set_params(space)
    before = (space / "plans" / "light.json").read_bytes()
    monkeypatch.setattr("lightpeft.pruning.verification.slice_base", lambda model, plan: None)

    with pytest.raises(ModelError, match="pruned, the model's outputs differ from the masked"):
        prune.main("light", "prepared", "estimate", "plans/light.json", "plans/light-cost.json")
    assert (space / "plans" / "light.json").read_bytes() == before


def test_the_stage_says_how_far_the_cut_is_from_the_mask(space, capsys):
    set_params(space)
    for method in ("light", "vanilla"):
        prune.main(method, "prepared", "estimate", f"again/{method}.json", f"again/{method}-c.json")

    shown = capsys.readouterr().out
    assert re.search(r"\[prune light\] pruned and masked outputs differ by \d", shown)
    assert "[prune vanilla] pruned" not in shown
