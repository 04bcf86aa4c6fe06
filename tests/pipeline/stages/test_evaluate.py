import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import load_from_disk
from helpers.stage_workspace import (
    load_base_model,
    make_card,
    make_tokenizer,
    set_params,
    write_workspace,
)

import lightpeft
from lightpeft.core.errors import CheckpointError
from lightpeft.pruning import checkpoint
from pipeline.common.paths import Paths
from pipeline.stages import evaluate, finetune
from pipeline.tasks.registry import make_task

PATHS = Paths()


@pytest.fixture(scope="module", params=["text-classification", "text-regression"])
def space(request, tmp_path_factory):
    folder = write_workspace(tmp_path_factory.mktemp("space"), task_name=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in ("light", "vanilla"):
            finetune.main(method, PATHS)
            evaluate.main(method, PATHS)
    return folder


@pytest.fixture(autouse=True)
def _in_space(space, monkeypatch):
    monkeypatch.chdir(space)


def kind(space: Path) -> str:
    return json.loads((space / "data" / "prepared" / "card.json").read_text())["task_name"]


def result(space: Path, method: str) -> tuple[dict, pd.DataFrame]:
    folder = space / "results" / "eval" / method
    return json.loads((folder / "eval.json").read_text()), pd.read_csv(folder / "predictions.csv")


def test_adapter_that_can_not_be_expanded_names_the_setting(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise CheckpointError("out can't be expanded")

    monkeypatch.setattr(checkpoint, "expand_adapter", refuse)
    monkeypatch.setattr(evaluate, "load_model", lambda *_: (None, None))
    with pytest.raises(
        CheckpointError, match=r"^out can't be expanded; or set evaluate\.lifted: fal"
    ):
        evaluate.load_expanded_model(None, None, Path(), seed=0)


def test_metrics_and_predictions_are_of_the_same_rows(space):
    evaluation, table = result(space, "light")
    test = load_from_disk("data/prepared/test")

    assert evaluation["rows"] == len(table) == len(test)
    assert table["row"].tolist() == [*range(len(test))]
    low, high = evaluation["interval"]
    assert low <= evaluation[evaluation["metric"]] <= high
    if kind(space) == "text-regression":
        assert table["label"].tolist() == test["label"]
        assert evaluation["pearson"] == pytest.approx(table.label.corr(table.prediction), rel=1e-4)
        assert evaluation["confusion"] is None
        return
    assert table["label"].tolist() == [["no", "yes"][label] for label in test["label"]]
    assert evaluation["accuracy"] == pytest.approx((table.label == table.prediction).mean())
    assert np.diag(evaluation["confusion"]).sum() == (table.label == table.prediction).sum()
    np.testing.assert_allclose(table[["score no", "score yes"]].sum(axis=1), 1, atol=1e-5)


def test_outputs_are_in_row_order_whatever_the_batches(space):
    task = make_task(make_card(kind(space)))
    model = lightpeft.load(load_base_model(space, task.name)[0], "artifacts/models/light")
    test = load_from_disk("data/prepared/test")
    one, many = (task.predict(model, test, make_tokenizer(), batch_size=n) for n in (1, 16))
    values = [one.predictions if one.scores is None else one.scores for one in (one, many)]

    np.testing.assert_allclose(*values, atol=1e-5)
    assert np.unique(values[0]).size > 20
    assert one.loss == pytest.approx(many.loss, rel=1e-4)


def test_the_lifted_adapter_of_an_uncut_model_is_the_model(space):
    evaluation, _ = result(space, "vanilla")

    assert evaluation["lifted"] == {
        name: pytest.approx(evaluation[name]) for name in evaluation["lifted"]
    }


def test_the_cut_model_is_smaller_and_its_lifted_adapter_is_measured_too(space):
    light, vanilla = result(space, "light")[0], result(space, "vanilla")[0]

    assert light["base_parameters"] < vanilla["base_parameters"]
    assert light["trainable_parameters"] < vanilla["trainable_parameters"]
    assert light["lifted"].keys() == vanilla["lifted"].keys() == set(result_metrics(space))


def result_metrics(space: Path) -> list[str]:
    return json.loads((space / "data" / "prepared" / "card.json").read_text())["metrics"]


def test_parameters_counted_are_those_that_run(space):
    model, _ = load_base_model(space, kind(space))
    head = sum(weight.numel() for weight in model.classifier.parameters())
    base = sum(weight.numel() for weight in model.parameters()) - head
    evaluation, _ = result(space, "vanilla")
    lora = 4 * 3 * (4 * (32 + 32) + 2 * (32 + 64))

    assert evaluation["base_parameters"] == base
    assert evaluation["trainable_parameters"] == lora + head


def test_evaluation_repeats_to_the_byte_and_can_leave_the_lifted_out(space):
    before = (space / "results" / "eval" / "light" / "eval.json").read_bytes()
    shutil.copytree(PATHS.locate_model("light"), PATHS.locate_model("again"))
    evaluate.main("again", PATHS)
    assert PATHS.locate_evaluation("again").read_bytes() == before

    set_params(space, evaluate={"lifted": False})
    evaluate.main("again", PATHS)
    set_params(space)
    assert result(space, "again")[0]["lifted"] is None


def test_a_truncated_adapter_is_one_line_and_writes_no_results(space):
    shutil.copytree(PATHS.locate_model("light"), PATHS.locate_model("broken"))
    os.truncate(PATHS.locate_model("broken") / "adapter_model.safetensors", 500)

    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors.*cut short"):
        evaluate.main("broken", PATHS)
    assert not PATHS.locate_evaluation("broken").exists()
