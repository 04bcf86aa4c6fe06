"""Stage `report`: everything -> metrics.json, plots, and one page that tells the run."""

from __future__ import annotations

from pipeline.common.console import say
from pipeline.common.files import write_json
from pipeline.common.params import load_params
from pipeline.common.paths import Paths
from pipeline.report.curves import draw_all
from pipeline.report.html import render
from pipeline.report.plot_data import all_series, write_series
from pipeline.report.run_results import load_outcome
from pipeline.report.table import table


def main(paths: Paths) -> None:
    """Write metrics.json, plot data, pictures and the report page; log the comparison table."""
    outcome = load_outcome(paths, load_params(paths.params))
    pictures = draw_all(outcome)
    text = render(outcome, pictures)
    paths.plots.mkdir(parents=True, exist_ok=True)
    for name, rows in all_series(outcome).items():
        write_series(paths.plots / f"{name}.csv", rows)
    for name, picture in pictures.items():
        (paths.plots / f"{name}.png").write_bytes(picture.png)
    paths.report.write_text(text, encoding="utf-8")
    write_json(paths.metrics, outcome.metrics())
    say("report", f"wrote {paths.report}")
    print(table(paths))
