"""Scores on disk: read as written, and refused when damaged or mixed up."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.made_up_scores import make_scores
from helpers.sealing import seal
from helpers.tiny_models import (
    draw_random_scores,
    estimate_tiny_scores,
    make_tiny_batch,
    make_tiny_model,
)
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

import lightpeft
from lightpeft.core.config import PruningConfig
from lightpeft.core.errors import ScoresError
from lightpeft.core.scores import CURVE_COLUMNS, Scores


def test_estimation_folder_is_a_stock_adapter(tmp_path: Path):
    model = make_tiny_model("roberta")
    scores = estimate_tiny_scores(model)
    scores.save(tmp_path)
    plan = lightpeft.make_plan(scores, PruningConfig(heads=0, neurons=0, modules=0, ranks=0))

    stock = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path))

    ours = lightpeft.prune(model, plan, scores)
    assert torch.equal(stock(**make_tiny_batch()).logits, ours(**make_tiny_batch()).logits)


def test_scores_are_read_as_they_were_written(tmp_path: Path):
    scores = estimate_tiny_scores(make_tiny_model())
    scores.save(tmp_path)

    again = Scores.load(tmp_path)

    assert again.digest == scores.digest
    assert (again.shape, again.modules, again.steps) == (scores.shape, scores.modules, 6)
    assert again.curve == scores.curve
    assert list(again.modules) == list(scores.modules)
    assert torch.equal(again.layers["bert.encoder.layer"], scores.layers["bert.encoder.layer"])
    assert list(again.heads["taylor"]) == list(scores.heads["taylor"])
    assert again.peft.target_modules == scores.peft.target_modules


def test_importance_of_modules_is_stored_once_and_older_files_with_it_twice_load(tmp_path: Path):
    scores = draw_random_scores(make_tiny_model())
    scores.save(tmp_path)
    tensors = load_file(tmp_path / "scores.safetensors")
    assert {x.partition("/")[0] for x in tensors} == {"layers", "heads", "neurons", "ranks"}

    tensors["modules"] = torch.tensor([scores.modules[name] for name in sorted(scores.modules)])
    save_file(tensors, tmp_path / "scores.safetensors")
    seal(tmp_path)

    assert Scores.load(tmp_path).digest == scores.digest


@pytest.mark.parametrize("group", ["heads", "neurons", "ranks", "modules"])
def test_score_that_is_not_a_number_is_an_error(group: str):
    scores = draw_random_scores(make_tiny_model())
    changed = copy.deepcopy(getattr(scores, group))
    last = list(changed)[-1]
    if group == "modules":
        changed[last] = float("nan")
    else:
        rows = changed if group == "ranks" else changed[last]
        next(iter(rows.values()))[0] = torch.inf

    with pytest.raises(ScoresError, match=rf"score {group}.* is not a number"):
        dataclasses.replace(scores, **{group: changed})


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "file",
    ["scores.json", "scores.safetensors", "adapter_model.safetensors", "adapter_config.json"],
)
@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_damaged_scores_are_one_line(tmp_path: Path, file: str, damage: str):
    draw_random_scores(make_tiny_model()).save(tmp_path)
    if damage == "gone":
        (tmp_path / file).unlink()
    else:
        cut_short(tmp_path / file)

    with pytest.raises(ScoresError, match=file) as caught:
        Scores.load(tmp_path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["scores.safetensors", "adapter_model.safetensors"])
def test_tensors_of_another_estimation_are_refused(tmp_path: Path, file: str):
    model = make_tiny_model()
    draw_random_scores(model).save(tmp_path / "one")
    draw_random_scores(model, seed=1).save(tmp_path / "two")
    shutil.copy(tmp_path / "two" / file, tmp_path / "one" / file)

    with pytest.raises(ScoresError, match=rf"{file} is not the file that was saved"):
        Scores.load(tmp_path / "one")
    seal(tmp_path / "one")
    with pytest.raises(ScoresError, match=r"not of scores\.json beside them"):
        Scores.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "edited", None),
        ("format", "lightpeft-scores-3", "is lightpeft-scores-3, .*; run the stages estimate and"),
        ("shape", "edited", None),
        ("modules", {"x": 1.0}, None),
        ("digest", "edited", None),
    ],
)
def test_edited_scores_are_one_line(tmp_path: Path, key: str, value: object, message: str | None):
    draw_random_scores(make_tiny_model()).save(tmp_path)
    meta = json.loads((tmp_path / "scores.json").read_text()) | {key: value}
    (tmp_path / "scores.json").write_text(json.dumps(meta))
    seal(tmp_path)

    with pytest.raises(ScoresError, match=message) as caught:
        Scores.load(tmp_path)

    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_of_another_method_is_refused(tmp_path: Path):
    draw_random_scores(make_tiny_model()).save(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    seal(tmp_path)

    with pytest.raises(ScoresError, match=r"must be of peft_type LORA or .*, got 'IA3'"):
        Scores.load(tmp_path)


def test_config_is_loaded_as_lora(tmp_path: Path):
    draw_random_scores(make_tiny_model(), r=3, use_rslora=True).save(tmp_path)

    config = Scores.load(tmp_path).peft

    assert isinstance(config, LoraConfig)
    assert (config.r, config.use_rslora) == (3, True)


def test_scores_without_a_curve_are_saved_with_its_header(tmp_path: Path):
    scores = dataclasses.replace(make_scores(), curve=[])
    scores.save(tmp_path)

    assert (tmp_path / "curve.csv").read_text() == ",".join(CURVE_COLUMNS) + "\n"
    assert Scores.load(tmp_path).curve == []


def test_repr_is_one_short_line():
    scores = make_scores(heads=12, neurons=96, layers=4, r=4)

    assert repr(scores) == (
        "Scores(bert: 48 heads, 384 neurons, 8 PEFT modules of rank 4, after 2 steps)"
    )
