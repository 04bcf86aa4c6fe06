"""Artefacts of another run, and damaged ones: one line and exit code 1 from every stage."""

import json
import os
import re
import shutil

import pytest
import transformers
from helpers.run_stages import check_error, check_error_here
from helpers.sealing import seal_plan
from helpers.stage_workspace import make_tokenizer, set_params

from lightpeft.core.errors import ModelError
from pipeline.common.paths import Paths
from pipeline.stages import finetune, prune

WEIGHTS = "adapter_model.safetensors"
pytestmark = pytest.mark.usefixtures("in_space")


def _foreign_plan(paths: Paths) -> tuple[str, ...]:
    plan = json.loads(paths.locate_plan("light").read_text())
    paths.locate_plan("light").write_text(json.dumps(seal_plan(plan | {"scores": "0" * 16})))
    return ("finetune", "light")


def _truncated_plan(paths: Paths) -> tuple[str, ...]:
    text = paths.locate_plan("light").read_text()
    paths.locate_plan("light").write_text(text[: len(text) // 2])
    return ("finetune", "light")


def _foreign_weights(paths: Paths) -> tuple[str, ...]:
    for method in ("light", "vanilla"):
        finetune.main(method, paths)
    shutil.copy(paths.locate_model("vanilla") / WEIGHTS, paths.locate_model("light") / WEIGHTS)
    return ("evaluate", "light")


def _damaged_rows(paths: Paths) -> tuple[str, ...]:
    os.truncate(next((paths.prepared / "train").glob("*.arrow")), 10)
    return ("finetune", "light")


def _emptied_card(paths: Paths) -> tuple[str, ...]:
    (paths.prepared / "card.json").write_text("{}")
    return ("estimate",)


def _unsupported(paths: Paths) -> tuple[str, ...]:
    config = transformers.CTRLConfig(n_embd=8, n_layer=1, n_head=2, dff=8, vocab_size=20)
    config.pad_token_id = 0
    transformers.CTRLForSequenceClassification(config).save_pretrained(paths.root / "ctrl")
    make_tokenizer().save_pretrained(paths.root / "ctrl")
    set_params(paths.root, model={"name": "ctrl"})
    return ("estimate",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_foreign_plan, "the plan was made from scores 0000000000000000, but these scores are"),
        (_truncated_plan, "artifacts/plans/light/plan.json is not readable JSON"),
        (_foreign_weights, f"artifacts/models/light/{WEIGHTS} is not the file that was saved"),
        (_damaged_rows, "data/prepared/train is damaged or missing"),
        (_emptied_card, "data/prepared/card.json lacks task, model, kind, task_name, labels"),
        (_unsupported, "model type 'ctrl' can't be pruned: transformer.h.0 can't be pruned: "),
    ],
)
def test_wrong_artefacts_are_one_line_and_exit_code_1(space, tmp_path, damage, message):
    shutil.copytree(space, tmp_path, dirs_exist_ok=True)
    arguments = damage(Paths(tmp_path))
    before = {path.name for path in tmp_path.glob("artifacts/*/*")}

    # One in a process of its own, which takes seconds.
    check = check_error if damage is _foreign_plan else check_error_here
    check(tmp_path, *arguments, message=message)

    assert {path.name for path in tmp_path.glob("artifacts/*/*")} == before


def test_a_slice_that_differs_from_the_mask_stops_the_stage_and_writes_no_plan(space, monkeypatch):
    before = Paths().locate_plan("light").read_bytes()
    monkeypatch.setattr("lightpeft.pruning.verification.slice_base", lambda model, plan: None)

    with pytest.raises(ModelError, match="pruned, the model's outputs differ from the masked"):
        prune.main("light", Paths())
    assert Paths().locate_plan("light").read_bytes() == before


def test_the_stage_logs_how_far_the_slice_is_from_the_mask(space, capsys):
    for method in ("light", "vanilla"):
        prune.main(method, Paths())

    shown = capsys.readouterr().out
    assert re.search(r"\[prune light\] pruned and masked outputs differ by \d", shown)
    assert "[prune vanilla] pruned" not in shown
