"""The report: metrics, plots, and what is missing."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from dvc_render.vega import VegaRenderer
from helpers.fake_run import edit_json, write_report, write_reported_run, write_run
from helpers.import_graph import ROOT

from lightpeft.core.benchmark_result import BenchmarkResult
from lightpeft.core.errors import LightPeftError
from lightpeft.core.scores import OVERLAP_COLUMNS, Scores
from pipeline.common.errors import PipelineError
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.report.run_results import load_run_results


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_flat_and_rounded_to_four_digits(usual):
    metrics = json.loads((usual / "metrics.json").read_text())

    assert metrics["light"] == {
        "test_accuracy": 0.7712,
        "lifted_test_accuracy": 0.7212,
        "validation_accuracy": 0.7212,
        "base_parameters": 17_000_123,
        "trainable_parameters": 890_000,
        "train_speedup": 1.7432,
        "inference_speedup": 1.7432,
        # 100 batches of 0.162 s, 300 at the speed-up; vanilla's 400 took 61.5 s.
        "end_to_end_speedup": round(400 / (300 / 1.74321 + 16.2 / (61.5 / 400)), 4),
        "train_memory_ratio": 0.7123,
        "inference_memory_ratio": 0.81,
        "estimate_fraction": 0.2088,
    }
    assert list(metrics) == ["light", "vanilla", "random"]
    assert "estimate_fraction" not in metrics["vanilla"]
    assert metrics["vanilla"]["end_to_end_speedup"] == 1
    assert all(isinstance(metrics[name]["base_parameters"], int) for name in metrics)


def test_what_was_not_measured_is_left_out_and_not_null(tmp_path):
    paths = write_run(tmp_path, methods=["vanilla", "random"])
    edit_json(paths.locate_evaluation("random"), lifted=None)
    benchmark = json.loads(paths.benchmark.read_text())
    for method in ("vanilla", "random"):
        benchmark["methods"][method]["memory"] = None
        benchmark["methods"][method]["memory_ratios"] = {"training": None, "inference": None}
    benchmark["estimation"] = None
    paths.benchmark.write_text(json.dumps(benchmark))
    write_report(paths)

    metrics = json.loads(paths.metrics.read_text())["random"]
    assert set(metrics) == {
        "test_accuracy",
        "validation_accuracy",
        "base_parameters",
        "trainable_parameters",
        "train_speedup",
        "inference_speedup",
        "end_to_end_speedup",
    }
    assert "not measured" in (tmp_path / "results" / "report.html").read_text()


def test_a_stopped_estimation_is_told_with_the_overlaps_of_its_checks(tmp_path):
    paths = write_run(tmp_path, estimate={"stop": {"stable": 0.9, "patience": 2}})
    scores = Scores.load(paths.scores)
    overlaps = [
        {},
        *(dict(zip(OVERLAP_COLUMNS, pair, strict=True)) for pair in [(0.5, 0.93), (1, 1)]),
    ]
    rows = zip(scores.curve, overlaps, strict=False)
    stopped = replace(scores, steps=30, curve=[row | overlap for row, overlap in rows])
    stopped.save(paths.scores)

    text = write_report(paths)

    assert (
        "stopped before its limit of 130 steps, because the units to prune stayed the same in 2"
        in text
    )
    assert "100.0% of the heads to prune" in text
    assert (paths.plots / "stability.png").exists()


def test_speeds_are_those_of_the_batch_size_nearest_to_the_one_trained_with(usual):
    paths, benchmark = Paths(usual), json.loads((usual / "results/benchmark.json").read_text())
    benchmark["methods"]["light"]["speedups"]["training"]["1"]["median"] = 1.1
    results = load_run_results(paths, load_params(paths.params))
    changed = replace(results, benchmark=BenchmarkResult.model_validate(benchmark))

    light = results.methods["light"]
    assert changed.compute_end_to_end_speedup(light) == results.compute_end_to_end_speedup(light)
    small = results.params.finetune.model_copy(update={"batch_size": 2})
    changed = replace(changed, params=results.params.model_copy(update={"finetune": small}))
    assert changed.compute_end_to_end_speedup(light) == pytest.approx(
        400 / (300 / 1.1 + 16.2 / (61.5 / 400))
    )


def test_pruned_modules_have_no_ranks_in_the_plots(tmp_path):
    prune = {"modules": 0.5, "ranks": 0.5, "criterion": "random", "neuron_scope": "layer"}

    text = write_reported_run(tmp_path, prune=prune)

    kept = [
        int(r["ranks"])
        for r in rows(tmp_path / "results/plots/ranks.csv")
        if r["method"] == "light"
    ]
    assert len(kept) == 10
    assert sum(kept) == 20
    assert kept.count(0) >= 5
    assert "the module is pruned: one of the 5 lowest by importance" in text
    assert "drawn at random" in text


def test_plot_data_has_rows_per_layer_and_method(usual):
    kept = rows(usual / "results/plots/kept.csv")
    training = rows(usual / "results/plots/training.csv")

    assert [(r["method"], r["layer"], r["heads"]) for r in kept[:3]] == [
        ("light", "0", "3"),
        ("light", "1", "3"),
        ("vanilla", "0", "4"),
    ]
    assert [r["method"] for r in training if r["step"] == "100"] == ["estimate", "vanilla"]


def test_equal_inputs_give_equal_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_reported_run(tmp_path / name)
        files = [
            tmp_path / name / "results" / "report.html",
            *sorted((tmp_path / name / "results" / "plots").iterdir()),
        ]
        written.append([path.read_bytes() for path in files])

    assert written[0] == written[1]


@pytest.mark.parametrize(
    "name",
    [
        "data/prepared/card.json",
        "artifacts/models/light/curve.csv",
        "results/eval/random/eval.json",
        "results/benchmark.json",
    ],
)
def test_a_missing_input_is_one_line_and_the_last_report_stays(tmp_path, name):
    paths = write_run(tmp_path)
    (tmp_path / name).unlink()
    paths.report.write_text("the last")
    with pytest.raises((PipelineError, LightPeftError), match=rf"^[^\n]*{name} does not exist.*$"):
        write_report(paths)

    assert (tmp_path / "results" / "report.html").read_text() == "the last"
    assert not (tmp_path / "metrics.json").exists()


def test_a_truncated_input_is_one_line(tmp_path):
    paths = write_run(tmp_path)
    paths.benchmark.write_text('{"device": ')
    with pytest.raises(LightPeftError, match=r"^\S+/benchmark\.json is not readable JSON[^\n]*$"):
        write_report(paths)


@pytest.mark.parametrize(
    ("template", "series", "x", "y"),
    [
        ("lines", "training", "step", "loss"),
        ("lines", "kept", "layer", "neurons"),
        ("heatmap", "ranks", "layer", "module"),
        ("scatter_methods", "speed", "train_speedup", "value"),
    ],
)
def test_dvc_fills_every_anchor_of_our_plot_templates(usual, template, series, x, y):
    data = [row | {"rev": "workspace"} for row in rows(usual / f"results/plots/{series}.csv")]

    plot = VegaRenderer(
        data, series, x=x, y=y, template=template, template_dir=ROOT / ".dvc" / "plots"
    )

    filled = plot.get_filled_template()
    assert filled["data"]["values"] == data
    assert "<DVC_METRIC" not in json.dumps(filled)
