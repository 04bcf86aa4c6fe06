"""The page of the report."""

import json
import re
from html.parser import HTMLParser

import pytest
from helpers.fake_run import edit_json, write_report, write_reported_run, write_run


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


def test_what_prepare_read_is_told_beside_the_data(tmp_path):
    paths = write_run(tmp_path)
    path = paths.prepared / "card.json"
    splits = json.loads(path.read_text())["splits"]
    splits["train"] |= {"unknown": 0.125, "only_unknown": 1200}
    edit_json(
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
    edit_json(paths.prepared / "card.json", repeats_of_train=repeats)
    line = "21 of 2,000 rows of test repeat a row of train"

    assert line in write_report(paths)
    assert "repeat a row of train" not in page


def test_the_page_shows_where_model_and_data_come_from(tmp_path):
    paths = write_run(tmp_path)
    edit_json(paths.prepared / "card.json", model={"name": "models/base", "files": "0123abcd"})

    text = Page(write_report(paths)).text

    assert re.search(r"model\.name\s*models/base\s*model\.files\s*0123abcd", text)
    assert re.search(r"sympy\s*1\.14", text)


def test_the_page_shows_the_revision_of_a_hub_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.common.data_card.describe_newer_commit", lambda *_, **__: None)
    paths = write_run(tmp_path)
    origin = {"id": "nyu-mll/glue", "revision": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"}
    edit_json(paths.prepared / "card.json", hub_dataset=origin)

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

    text = write_reported_run(tmp_path, labels=labels)

    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all(label in page.text for label in labels)


def test_the_summary_states_the_numbers_of_the_run(page):
    text = Page(page).text

    assert "1.74x the training speed (1.44x with the estimation counted)" in text
    assert "counted), accuracy 0.4 points lower" in text
    # A third of 4 heads and of 32 neurons, in each of 2 layers.
    assert "keeps 6 of 8 heads, 40 of 64 neurons and all 80 PEFT ranks" in text
    assert "their 95 % intervals overlap" in text
    assert "selection by importance gains 3.9 points" in text
    assert "pays off from 190 training steps on" in text
    assert "word overlap reaches 60.4 %" in text
    assert "FLOPs are per token, in rows of 64 tokens." in text


def test_a_page_where_random_wins_says_so(tmp_path):
    paths = write_run(tmp_path)
    edit_json(paths.locate_evaluation("random"), accuracy=0.79, interval=[0.78, 0.8])
    write_report(paths)

    text = (tmp_path / "results" / "report.html").read_text()
    assert "reaches 79.0 %: selection by importance gains nothing here" in text


def test_equal_quality_is_called_the_same(tmp_path):
    paths = write_run(tmp_path)
    edit_json(paths.locate_evaluation("light"), accuracy=0.7755)

    assert "accuracy is 77.5 %, the same as vanilla's 77.5 %" in Page(write_report(paths)).text


def test_a_regression_has_no_confusion_matrix(tmp_path):
    text = write_reported_run(tmp_path, labels=())

    assert "pearson is 0.771" in text
    assert "Confusion matri" not in text
    assert "test_pearson" in json.loads((tmp_path / "metrics.json").read_text())["light"]


def test_many_labels_get_a_matrix_with_every_cell(tmp_path):
    labels = tuple(f"topic {n}" for n in range(20))

    tags = Page(write_reported_run(tmp_path, labels=labels)).tags

    styles = [attributes.get("style") or "" for _, attributes in tags]
    cells = [style for style in styles if style.startswith("--fraction")]
    assert len(cells) == 3 * 20 * 20


@pytest.mark.parametrize("method", ["magnitude", "qv", "peft:ia3"])
def test_any_method_beside_vanilla_is_described(tmp_path, method):
    settings = {"methods": ["vanilla", method], "prune": {"modules": 0.5}}

    text = Page(write_reported_run(tmp_path, **settings)).text

    assert ("Magnitude keeps" if method == "magnitude" else "Nothing was pruned") in text
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["vanilla", method]


def test_vanilla_alone_says_that_nothing_was_pruned(tmp_path):
    text = write_reported_run(tmp_path, methods=["vanilla"], export={"method": "vanilla"})

    assert "Nothing was pruned: accuracy 77.5 %" in text
    assert not re.search(r"light</|random</", text)
