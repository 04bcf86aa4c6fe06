import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dvc_render.vega import VegaRenderer
from helpers.fake_run import write_report, write_run
from helpers.import_graph import ROOT

from lightpeft.core.errors import LightPeftError
from pipeline.__main__ import run
from pipeline.common.data_card import DataCard
from pipeline.common.errors import PipelineError
from pipeline.common.paths import Paths
from pipeline.report.table import format_comparison


def make(root: Path, **options: object) -> str:
    """Write a run, report on it, and return the page."""
    return write_report(write_run(root, **options))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run with the defaults was reported."""
    root = tmp_path_factory.mktemp("usual")
    make(root)
    return root


@pytest.fixture(scope="module")
def page(usual: Path) -> str:
    """Its page."""
    return (usual / "results" / "report.html").read_text(encoding="utf-8")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


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
        "train_memory_ratio": 0.7123,
        "inference_memory_ratio": 0.81,
        "estimate_fraction": 0.2088,
    }
    assert list(metrics) == ["light", "vanilla", "random"]
    assert "estimate_fraction" not in metrics["vanilla"]
    assert all(isinstance(metrics[name]["base_parameters"], int) for name in metrics)


def test_what_was_not_measured_is_left_out_and_not_null(tmp_path):
    paths = write_run(tmp_path, methods=["vanilla", "random"])
    change(paths.locate_evaluation("random"), lifted=None)
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
    }
    assert "not measured" in (tmp_path / "results" / "report.html").read_text()


def test_what_prepare_read_is_told_beside_the_data(tmp_path):
    paths = write_run(tmp_path)
    path = paths.prepared / "card.json"
    splits = json.loads(path.read_text())["splits"]
    splits["train"] |= {"unknown": 0.125, "only_unknown": 1200}
    change(
        path,
        splits=splits,
        columns={"text": ["title", "body"], "label": ["label"]},
        ignored_columns=["<id>"],
        notes=["a.csv is separated by semicolons"],
        first_row={"prompt": "[CLS] a [SEP]", "target": "yes"},
        image_modes={"RGB": 3, "L": 1},
        unused_message_fields=["name"],
    )
    page = write_report(paths)

    for text in (
        "columns: text from title + body, label; ignored: &lt;id&gt;",
        "first row: [CLS] a [SEP] -&gt; yes",
        "image modes in train: RGB 3, L 1",
        "message fields not used: name",
        "1,200 of 12,000 rows of train hold nothing but unknown tokens",
        "a.csv is separated by semicolons",
        "12.50%",
    ):
        assert text in page


def test_rows_that_repeat_train_are_counted_beside_the_data(tmp_path, page):
    paths = write_run(tmp_path)
    repeats = {"validation": 0, "test": 21}
    change(paths.prepared / "card.json", repeats_of_train=repeats)
    line = "21 of 2,000 rows of test repeat a row of train"

    assert line in write_report(paths)
    assert "repeat a row of train" not in page


def test_the_page_shows_where_model_and_data_come_from(tmp_path):
    paths = write_run(tmp_path)
    change(paths.prepared / "card.json", model={"name": "models/base", "files": "0123abcd"})

    text = Page(write_report(paths)).text

    assert re.search(r"model\.name\s*models/base\s*model\.files\s*0123abcd", text)
    assert re.search(r"sympy\s*1\.14", text)


def test_the_page_shows_the_revision_of_a_hub_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.common.data_card.describe_newer_commit", lambda *_, **__: None)
    paths = write_run(tmp_path)
    origin = {"id": "nyu-mll/glue", "revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"}
    change(paths.prepared / "card.json", hub_dataset=origin)

    assert all(value in Page(write_report(paths)).text for value in origin.values())


def test_the_page_stands_alone(page):
    linked = [
        value
        for _, attributes in Page(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]

    assert len(linked) == 9
    assert all(link.startswith("data:image/png;base64,") for link in linked)
    rest = re.sub(r"base64,[^\"]+", "", page)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", rest)


def test_pictures_are_described_and_table_headers_have_a_scope(page):
    tags = Page(page).tags

    assert all(len(attributes["alt"]) > 40 for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert sum(tag == "h1" for tag, _ in tags) == 1


def test_labels_are_escaped(tmp_path):
    labels = ("<script>alert(1)</script>", "</table><img src=x onerror=y>", '"&$x_{$')

    text = make(tmp_path, labels=labels)

    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all(label in page.text for label in labels)


def test_the_summary_states_the_numbers_of_the_run(page):
    text = Page(page).text

    assert "1.74x the training speed, accuracy 0.4 points lower" in text
    # A third of 4 heads and of 32 neurons, in each of 2 layers.
    assert "keeps 6 of 8 heads, 40 of 64 neurons and all 80 PEFT ranks" in text
    assert "their 95 % intervals overlap" in text
    assert "selection by importance gains 3.9 points" in text
    assert "pays off from 190 training steps on" in text
    assert "word overlap reaches 60.4 %" in text


def test_a_page_where_random_wins_says_so(tmp_path):
    paths = write_run(tmp_path)
    change(paths.locate_evaluation("random"), accuracy=0.79, interval=[0.78, 0.8])
    write_report(paths)

    text = (tmp_path / "results" / "report.html").read_text()
    assert "reaches 79.0 %: selection by importance gains nothing here" in text


def test_equal_quality_is_called_the_same(tmp_path):
    paths = write_run(tmp_path)
    change(paths.locate_evaluation("light"), accuracy=0.7755)

    assert "accuracy is 77.5 %, the same as vanilla's 77.5 %" in Page(write_report(paths)).text


def test_a_regression_has_no_confusion_matrix(tmp_path):
    text = make(tmp_path, labels=())

    assert "pearson is 0.771" in text
    assert "Confusion matri" not in text
    assert "test_pearson" in json.loads((tmp_path / "metrics.json").read_text())["light"]


def test_many_labels_get_a_matrix_with_every_cell(tmp_path):
    labels = tuple(f"topic {n}" for n in range(20))

    tags = Page(make(tmp_path, labels=labels)).tags

    styles = [attributes.get("style") or "" for _, attributes in tags]
    cells = [style for style in styles if style.startswith("--fraction")]
    assert len(cells) == 3 * 20 * 20


def test_vanilla_alone_says_that_nothing_was_pruned(tmp_path):
    text = make(tmp_path, methods=["vanilla"])

    assert "Nothing was pruned: accuracy 77.5 %" in text
    assert not re.search(r"light</|random</", text)


def test_pruned_modules_have_no_ranks_in_the_plots(tmp_path):
    prune = {"modules": 0.5, "ranks": 0.5, "criterion": "random", "neuron_scope": "layer"}

    text = make(tmp_path, prune=prune)

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
        make(tmp_path / name)
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
    change(paths.prepared / "card.json", metric="f1", positive_class="no")
    for method in ("light", "vanilla", "random"):
        change(paths.locate_evaluation(method), metric="f1", positive_class="no")
    page = write_report(paths)

    assert "f1 of no" in format_comparison(paths).splitlines()[0]
    for text in ("the training speed, f1 of no", "test rows, f1 of no is", '"n">f1 of no</th>'):
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
