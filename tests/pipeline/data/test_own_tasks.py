"""A task of a user's own file: what it may be, and what is wrong with it in one line."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.task_files import list_labels, read, write_jsonl

from pipeline.common.data_card import DroppedRows
from pipeline.common.errors import ConfigError, DataError

OWN = """
from pipeline.data.dataset_spec import DatasetSpec

def template(row):
    return {"text": row["joke"], "text_pair": None, "label": ["flat", "funny"][row["laughs"] > 2]}

def jokes(template=template):
    return DatasetSpec(
        kind="text-classification", template=template, classes=("flat", "funny"), metric="f1"
    )

JOKES = jokes()
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    """Folders of own files are on the path of their test only."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def own(tmp_path):
    """Reads 40 rows with the task JOKES of a file with this text."""
    train = write_jsonl(tmp_path / "a.jsonl", joke=[f"j{i}" for i in range(40)], laughs=[1, 5] * 20)

    def found(text, name="JOKES", **changes):
        (tmp_path / "own.py").write_text(text)
        return read(tmp_path, **{"task": f"{tmp_path}/own.py:{name}", "train": train} | changes)

    return found


def test_a_task_can_be_a_user_s_own(own):
    dataset = own(OWN)

    assert (dataset.classes, dataset.source.metric) == (["flat", "funny"], "f1")
    assert Counter(list_labels(dataset)) == {"flat": 20, "funny": 20}


def test_an_own_file_may_import_what_is_beside_it(own, tmp_path):
    (tmp_path / "beside_the_jokes.py").write_text(OWN)

    assert len(list_labels(own("from beside_the_jokes import JOKES"))) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"own\.py:JOKES: SyntaxError: '\(' was never closed \(own\.py, line 1\)"),
        ("import no_such", "JOKES: ModuleNotFoundError: No module named 'no_such'"),
        (
            f"{OWN}DatasetSpec(kind='text-classification')",
            "JOKES: TypeError: .* missing 2 required keyword-only",
        ),
        (OWN.replace("f1", "bleu"), "JOKES: metric.* must be among accuracy, .*got bleu"),
        ("raise SystemExit", r"JOKES: SystemExit$"),
        ("PUNS = 1", "defines no DatasetSpec named 'JOKES'"),
    ],
)
def test_an_own_file_that_does_not_work_is_one_line(own, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        own(text)

    assert "\n" not in str(caught.value)


def test_an_own_file_that_is_not_there_is_one_line(own):
    with pytest.raises(ConfigError, match=r"none\.py does not exist"):
        own(OWN, task="none.py:JOKES")


def test_a_first_row_without_a_column_is_a_bad_row_like_others(own, tmp_path):
    rows = {"joke": [f"j{i}" for i in range(40)], "laughs": [1, 5] * 20}
    train = Path(write_jsonl(tmp_path / "b.jsonl", **rows))
    train.write_text('{"text": "x", "n": 1}\n' + train.read_text())

    dataset = own(OWN, train=str(train), max_bad_rows=0.1)
    assert dataset.dropped == {
        "train: no 'joke'": DroppedRows(rows=1, first=1, name="which has text, n")
    }
    with pytest.raises(DataError, match=r"1 of 41 rows.*1 x no 'joke' \(first: row 1, which has"):
        own(OWN, train=str(train))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}[row['joke']]", r"40 x a value that does not fit \(first: row 1, KeyError: 'j0'\)"),
        ("int(row['joke'])", r"row 1, ValueError: invalid literal for int\(\) with .* 'j0'"),
        ("row['pun']", r"no usable row: 40 x no 'pun' \(first: row 1, which has joke, "),
        ("row['jok']", r"which has joke, laughs; did you mean 'joke'\?\)"),
        (
            "{'texts': row['joke'], 'label': 'flat'}",
            r"returns 'texts', which text-cl.* mean text\?",
        ),
        ("template(row) | {'textPair': 'a'}", r"returns 'textPair', .* did you mean text_pair\?"),
        ("1 // 0", r"own\.py:JOKES: template <lambda> fails on row 1 of train: ZeroDivisionError"),
        ("row['joke'] + 1", "row 1 of train: TypeError: can only conc"),
        ("row['laughs'].strip()", "<lambda> fails on row 1 of train: AttributeError: 'int' object"),
        ("['flat'][row['laughs']]", "<lambda> fails on row 1 of train: IndexError: list index out"),
        ("row['joke'], 1", r"row 1 of train: TypeError: it must return a dict.* got \('j0', 1\)"),
        ("{'text': row['joke']}", "row 1 of train: KeyError: 'label'"),
        ("{'text': ['a'], 'label': 'flat'}", r"40 x text of another type \(first: row 1\)"),
    ],
)
def test_a_template_that_does_not_work_is_one_line(own, body, message):
    with pytest.raises(DataError, match=message) as caught:
        own(f"{OWN}\nJOKES = jokes(lambda row: ({body}))")

    assert "\n" not in str(caught.value)


def test_whole_numbers_of_an_own_task_are_scores_or_classes_as_its_metric_says(own):
    scores = (
        "DatasetSpec(kind='text-classification', "
        "template=lambda row: template(row) | {'label': row['laughs']}"
    )

    assert own(f"{OWN}\nJOKES = {scores}, metric='spearman')").classes == []
    assert own(f"{OWN}\nJOKES = {scores}, metric='f1')").classes == ["1", "5"]
    with pytest.raises(DataError, match="is measured by f1, which needs classes, but labels of tr"):
        own(f"{OWN}\nJOKES = {scores.replace(']}', '] / 2}')}, metric='f1')")


def test_a_bug_in_a_template_stops_however_few_rows_show_it(own, tmp_path):
    rows = {"joke": [*(f"j{i}" for i in range(40)), None], "laughs": [*[1, 5] * 20, 1]}
    train = write_jsonl(tmp_path / "c.jsonl", **rows)
    text = f"{OWN}\nJOKES = jokes(lambda row: template(row) | {{'text': row['joke'].strip()}})"

    with pytest.raises(DataError, match="row 41 of train: AttributeError: 'NoneType'"):
        own(text, train=train, max_bad_rows=0.5)


def test_a_value_that_a_helper_refuses_is_a_bad_row(own, tmp_path):
    rows = {"joke": [*(f"j{i}" for i in range(40)), None], "laughs": [*[1, 5] * 20, 1]}
    train = write_jsonl(tmp_path / "c.jsonl", **rows)
    text = OWN.replace('row["joke"]', "require_text(row, 'joke')").replace(
        "import DatasetSpec", "import DatasetSpec, require_text"
    )

    assert own(text, train=train, max_bad_rows=0.5).dropped == {
        "train: a value that does not fit": DroppedRows(
            rows=1, first=41, name="joke must be text, got None"
        )
    }
