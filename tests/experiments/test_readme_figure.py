"""Tables and figure of the documents show what the committed records hold."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from helpers.import_graph import ROOT

from experiments import quality, readme_figure


def test_the_results_show_the_table_of_the_records():
    table = quality.render_table(quality.RESULTS)

    assert table in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted(quality.RESULTS.with_name("end_to_end").glob("*.json")), ids=lambda p: p.stem
)
def test_the_results_show_what_the_end_to_end_records_say(path: Path):
    record = json.loads(path.read_text(encoding="utf-8"))
    light, seconds = record["metrics"]["light"], record["timing"]
    vanilla = seconds["vanilla"]["seconds"]
    whole = seconds["estimate"]["seconds"] + seconds["light"]["seconds"]
    cells = [f"{light[key]:.2f}x" for key in ("train_speedup", "end_to_end_speedup")]
    cells += [f"{whole:.0f} s, {vanilla / whole:.2f}x", f"{light['inference_speedup']:.2f}x"]
    cells += [f"{int(100 * light['train_memory_ratio'] + 0.5)} %"]

    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(cells)} |" in text


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
