"""Tables and figure of the documents show what the committed records hold."""

from __future__ import annotations

import statistics

import pytest
from helpers.import_graph import ROOT

from experiments import quality, readme_figure


@pytest.mark.parametrize("folder", ["quality", "fast"])
def test_the_results_show_the_tables_of_the_records(folder: str):
    table = quality.render_table(quality.RESULTS.with_name(folder))

    assert table in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_readme_shows_the_mean_accuracies():
    tasks = readme_figure.read_accuracies().values()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {"vanilla LoRA": "vanilla", "**light**": "light 1/3", "random pruning": "random 1/3"}

    for start, variant in rows.items():
        mean = statistics.mean(statistics.mean(values[variant]) for values in tasks)
        row = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
        assert row.strip("|* ").endswith(f"{mean:.1f}")


def test_the_figure_can_be_drawn_again():
    accuracy, speed = readme_figure.draw().axes

    assert [label.get_text() for label in accuracy.get_xticklabels()] == sorted(
        readme_figure.read_accuracies()
    )
    assert len(speed.patches) == 6  # three methods, training and inference
