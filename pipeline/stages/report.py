"""Stage `report`: everything -> metrics.json, plots, and one page that tells the run."""

from __future__ import annotations

from pathlib import Path

from pipeline.common.console import say
from pipeline.common.files import write_json
from pipeline.common.params import load_params
from pipeline.report.curves import draw_all
from pipeline.report.html import render
from pipeline.report.plot_data import all_series, write_series
from pipeline.report.run_results import Places, load_outcome
from pipeline.report.table import table


def main(*arguments: str) -> None:
    """PREPARED ESTIMATE PLANS MODELS RESULTS BENCHMARK, then METRICS PLOTS PAGE to write."""
    *places, metrics, plots, page = map(Path, arguments)
    inputs = Places(*places)
    outcome = load_outcome(inputs, load_params())
    pictures = draw_all(outcome)
    text = render(outcome, pictures)
    plots.mkdir(parents=True, exist_ok=True)
    for name, rows in all_series(outcome).items():
        write_series(plots / f"{name}.csv", rows)
    for name, picture in pictures.items():
        (plots / f"{name}.png").write_bytes(picture.png)
    page.write_text(text, encoding="utf-8")
    write_json(metrics, outcome.metrics())
    say("report", f"wrote {page}")
    print(table(metrics, inputs.results))
