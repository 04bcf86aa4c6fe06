"""Tasks that generate, through every stage."""

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.generation_workspace import draw_copying_rows, write_workspace
from helpers.run_stages import run_stages


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5", "bart"])
def space(request, tmp_path_factory):
    folder = write_workspace(
        tmp_path_factory.mktemp("space"), request.param, draw_copying_rows(120)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_stages(patch)
    return folder


def result(space: Path, method: str) -> dict:
    return json.loads((space / "results" / "eval" / method / "eval.json").read_text())


def test_every_stage_runs_and_measures_losses_and_texts(space):
    card = json.loads((space / "data" / "prepared" / "card.json").read_text())
    evaluation = result(space, "light")
    seq2seq = card["task_name"] == "seq2seq-lm"

    assert card["metric"] == ("rougeL" if seq2seq else "perplexity")
    assert card["selection_metric"] == "perplexity"
    assert set(card["metrics"]) <= set(evaluation)
    assert set(evaluation["lifted"]) == set(card["metrics"])
    low, high = evaluation["interval"]
    assert low <= evaluation[card["metric"]] <= high
    assert evaluation["base_parameters"] < result(space, "vanilla")["base_parameters"]
    table = pd.read_csv(
        space / "results" / "eval" / "light" / "predictions.csv", keep_default_na=False
    )
    assert list(table) == ["row", "reference", "prediction", "tokens", "loss"]
    assert evaluation["exact_match"] == pytest.approx((table.reference == table.prediction).mean())
    times = json.loads((space / "results" / "benchmark.json").read_text())
    assert list(times["methods"]["light"]["speedups"]) == ["training", "prefill", "decode"]
