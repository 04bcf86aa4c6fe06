"""The table of methods that `python -m pipeline table` prints."""

import json

from helpers.fake_run import edit_json, write_report, write_run

from pipeline.__main__ import run
from pipeline.common.data_card import DataCard
from pipeline.common.paths import Paths
from pipeline.report.table import format_comparison


def test_the_table_is_aligned_and_has_a_row_per_method(usual):
    header, units, rule, *lines = format_comparison(Paths(usual)).splitlines()

    assert header.split()[:3] == ["method", "test_accuracy", "base"]
    assert units.split()[0] == "params"
    assert [line.split()[0] for line in lines] == ["light", "vanilla", "random"]
    assert len({len(line) for line in (rule, *lines)}) == 1
    assert "0.7712 [0.7532, 0.7893]" in lines[0]
    assert "1.74x" in lines[0]


def test_the_page_and_the_table_name_the_class_that_f1_is_of(tmp_path):
    paths = write_run(tmp_path)
    edit_json(paths.prepared / "card.json", metric="f1", positive_class="no")
    for method in ("light", "vanilla", "random"):
        edit_json(paths.locate_evaluation(method), metric="f1", positive_class="no")
    page = write_report(paths)

    assert "f1 of no" in format_comparison(paths).splitlines()[0]
    for text in ("counted), f1 of no", "test rows, f1 of no is", '"n">f1 of no</th>'):
        assert text in page


def test_the_table_of_a_cached_run_says_if_the_hub_has_another_commit(usual, monkeypatch, capsys):
    monkeypatch.chdir(usual)
    monkeypatch.setattr(DataCard, "describe_newer_commits", lambda card: ["the hub has bbbb now"])

    run("table")

    *_, last = capsys.readouterr().out.splitlines()
    assert last == "the hub has bbbb now"


def test_the_table_finds_the_metric_wherever_it_stands(tmp_path):
    paths = write_run(tmp_path)
    write_report(paths)
    metrics = json.loads(paths.metrics.read_text())
    reordered = {name: dict(reversed(row.items())) for name, row in metrics.items()}
    paths.metrics.write_text(json.dumps(reordered))

    assert format_comparison(paths).splitlines()[0].split()[:2] == ["method", "test_accuracy"]
