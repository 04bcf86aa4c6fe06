"""Stage `report`: the results of all stages -> metrics.json, plots and one HTML page."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipeline.common.console import log
from pipeline.common.files import write_text
from pipeline.common.paths import Paths
from pipeline.common.pruning_params import load_params
from pipeline.report.curves import draw_all
from pipeline.report.html import render_page
from pipeline.report.plot_data import write_plot_data
from pipeline.report.run_results import load_run_results
from pipeline.report.summary_text import write_target_lines
from pipeline.report.table import format_comparison


def main(paths: Paths) -> None:
    """Write metrics.json, plot data, pictures and the page; print the comparison table."""
    results = load_run_results(paths, load_params(paths.params))
    pictures = draw_all(results)
    page = render_page(results, pictures)
    paths.plots.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.plots.parent, prefix=".plots.") as scratch:
        plots = Path(scratch) / "plots"
        plots.mkdir()
        write_plot_data(results, plots)
        for name, picture in pictures.items():
            (plots / f"{name}.png").write_bytes(picture.png)
        shutil.rmtree(paths.plots, ignore_errors=True)
        plots.rename(paths.plots)
    write_text(paths.report, page)
    results.summarize().write(paths.metrics)
    for line in results.card.describe_newer_commits():
        log("report", line)
    for line in write_target_lines(results):
        log("report", line)
    log("report", f"wrote {paths.report}\n{format_comparison(paths)}")
