"""How numbers are formatted, and what the sentences say for metrics where lower is better."""

import json
from types import SimpleNamespace

import pytest
from helpers.fake_run import write_report, write_run
from helpers.tiny_models import draw_random_scores, make_tiny_model

import lightpeft
from pipeline.report import summary_text as text


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (text.format_change("accuracy", -0.0043), "0.4 points lower"),
        (text.format_change("f1", 0.0004), "unchanged"),
        (text.format_change("pearson", 0.0126), "0.013 higher"),
        (text.format_change("rougeL", 0.0126), "1.3 points higher"),
        (text.format_change("perplexity", -0.5), "0.500 lower"),
        (text.format_count(22_713_216), "22.7 M"),
        (text.format_count(999), "999"),
        (text.format_seconds(0.0115), "11.5 ms"),
        (text.format_seconds(12.34), "12.3 s"),
        (text.format_seconds(125), "2 min 5 s"),
        (text.format_percent(0.7123), "71 %"),
        (text.format_percent(None), "not measured"),
    ],
)
def test_numbers_are_formatted_for_readers(formatted, expected):
    assert formatted == expected


def test_a_lower_perplexity_than_of_random_pruning_is_a_gain(tmp_path):
    paths = write_run(tmp_path)
    card = json.loads((paths.prepared / "card.json").read_text())
    changed = {"metric": "perplexity", "metrics": ["perplexity", "exact_match"], "baseline": None}
    (paths.prepared / "card.json").write_text(json.dumps(card | changed))
    for method, value in {"light": 8.0, "vanilla": 7.5, "random": 9.0}.items():
        path = paths.locate_evaluation(method)
        changed = {"metric": "perplexity", "perplexity": value, "lifted": None}
        changed["interval"] = [value - 0.3, value + 0.3]
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    page = write_report(paths)

    assert "reaches 9.000: selection by importance gains 1.000." in page
    assert "exact_match" not in page  # nothing was generated


def test_target_prediction_and_measurement_are_stated(tmp_path):
    target = {"training_speedup": 1.7, "inference_speedup": "none", "parameters": "none"}
    paths = write_run(
        tmp_path, prune={"target": target | {"memory": "none", "flops": "none"}, "modules": "auto"}
    )
    page = write_report(paths)
    light = json.loads(paths.metrics.read_text())["light"]

    assert (light["target"], light["target_measured"]) == (1.7, 1.7432)
    predicted = f"{light['target_predicted']:.2f}x"
    expected = f"training speedup 1.70x, predicted {predicted} by FLOPs, measured 1.74x"
    assert f"Target of light: {expected}." in page


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        ({}, "ranked within its layer, each neuron over all layers;", "(taylor)"),
        ({"layers": 0.4}, "First, 3 of 5 layers were kept: those that change most", "(taylor)"),
        (
            {"criterion": "energy"},
            "each neuron over all layers; those with the lowest importance (energy) were pruned.",
            "How many neurons each layer keeps was decided by their taylor scores.",
        ),
        (
            {"criterion": "energy", "head_scope": "global"},
            "Each head was then ranked over all layers",
            "How many heads and neurons each layer keeps was decided by their taylor scores.",
        ),
        ({"criterion": "energy", "uniform": True}, "each neuron within its layer", "(energy)"),
    ],
)
def test_how_units_were_selected_is_told(changes, start, end):
    scores = draw_random_scores(make_tiny_model(num_hidden_layers=5))
    plan = lightpeft.make_plan(scores, lightpeft.PruningConfig(**changes))
    config = lightpeft.EstimationConfig(steps=scores.steps)
    results = SimpleNamespace(plan=plan, scores=scores, params=SimpleNamespace(estimate=config))

    paragraph = text.write_selection_paragraph(results)

    assert start in paragraph
    assert paragraph.removesuffix(" were pruned.").endswith(end)
