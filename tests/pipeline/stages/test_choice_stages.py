"""Multiple choice through all stages, for an encoder and a decoder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import load_from_disk
from helpers.choice_workspace import write_workspace
from helpers.params_file import change_params
from helpers.run_stages import run_stages
from safetensors import safe_open

from pipeline.common.data_card import DataCard
from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.stages import prepare

KIND = {"bert": "multiple-choice", "llama": "multiple-choice-lm"}


@pytest.fixture(scope="module", params=KIND)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def space(model, tmp_path_factory):
    """What every stage wrote."""
    folder = tmp_path_factory.mktemp(model)
    write_workspace(folder, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages(patch)
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_model_decides_how_it_chooses(space, model):
    card = read(space / "data" / "prepared" / "card.json")

    assert (card["task_name"], card["labels"], card["metric"]) == (KIND[model], [], "accuracy")
    assert [card["splits"][name]["rows"] for name in card["splits"]] == [72, 9, 9]


def test_accuracy_is_that_of_the_predictions_and_there_is_no_confusion_matrix(space):
    evaluation = read(space / "results" / "eval" / "light" / "eval.json")
    table = pd.read_csv(space / "results" / "eval" / "light" / "predictions.csv")

    assert (
        table["label"].tolist()
        == load_from_disk(str(space / "data" / "prepared" / "test"))["label"]
    )
    assert evaluation["accuracy"] == pytest.approx((table.label == table.prediction).mean())
    assert evaluation["confusion"] is None


def test_shares_are_of_the_choices_that_a_row_has(space):
    table = pd.read_csv(space / "results" / "eval" / "light" / "predictions.csv")
    shares = table.filter(like="score").to_numpy()
    counts = [
        len(row) for row in load_from_disk(str(space / "data" / "prepared" / "test"))["choices"]
    ]

    assert min(counts) < max(counts)
    assert (~np.isnan(shares)).sum(axis=1).tolist() == counts
    np.testing.assert_allclose(np.nansum(shares, axis=1), 1, atol=1e-5)
    assert np.nanargmax(shares, axis=1).tolist() == table.prediction.tolist()


def test_a_stock_reader_of_the_lifted_adapter_finds_the_trained_model(space):
    evaluation = read(space / "results" / "eval" / "vanilla" / "eval.json")

    assert evaluation["lifted"] == {"accuracy": evaluation["accuracy"]}


def test_only_an_encoder_has_a_head_to_save(space, model):
    weights = space / "artifacts" / "models" / "light" / "adapter_model.safetensors"
    with safe_open(weights, "pt") as file:
        heads = [name for name in file.keys() if "lora_" not in name]

    assert {name.split(".")[-2] for name in heads} == ({"classifier"} if model == "bert" else set())


def test_the_cut_model_is_measured_against_the_uncut_one(space, model):
    speedups = read(space / "results" / "benchmark.json")["methods"]["light"]["speedups"]
    phases = ("training", "inference") if model == "bert" else ("training", "prefill", "decode")

    assert all(speedups[phase]["3"]["flop_bound"] > 1 for phase in phases)


@pytest.mark.parametrize("model", KIND)
@pytest.mark.parametrize("prompt", ["none", "w1"])
def test_a_neutral_prompt_is_for_decoders(cwd, model, prompt):
    write_workspace(cwd, model)
    change_params(cwd, data={"neutral_prompt": prompt})

    if (model, prompt) == ("bert", "w1"):
        with pytest.raises(ConfigError, match=r"neutral_prompt must be auto or none .*, got 'w1'"):
            prepare.main(Paths())
    else:
        prepare.main(Paths())
        expected = None if prompt == "none" else "w1"
        assert DataCard.read(Paths().prepared).neutral_prompt == expected
