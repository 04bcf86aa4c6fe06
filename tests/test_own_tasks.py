"""A task of a user's own file: what it may be, and what is wrong with it in one line."""

import sys
from collections import Counter

import pytest
from test_tasks import jsonl, labels_of, read

from lightpeft.errors import ConfigError

OWN = """
from pipeline.entry import Entry

def template(row):
    return {"text": row["joke"], "text_pair": None, "label": ["flat", "funny"][row["laughs"] > 2]}

def jokes(template=template):
    return Entry(kind="classify", template=template, classes=("flat", "funny"), metric="f1")

JOKES = jokes()
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    """Folders of own files are on the path of their test only."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def own(tmp_path):
    """Reads 40 rows with the task JOKES of a file with this text."""
    train = jsonl(tmp_path / "a.jsonl", joke=[f"j{i}" for i in range(40)], laughs=[1, 5] * 20)

    def found(text, name="JOKES", **changes):
        (tmp_path / "own.py").write_text(text)
        return read(tmp_path, **{"task": f"{tmp_path}/own.py:{name}", "train": train} | changes)

    return found


def test_a_task_can_be_a_user_s_own(own):
    found = own(OWN)

    assert (found.classes, found.source.metric) == (["flat", "funny"], "f1")
    assert Counter(labels_of(found)) == {"flat": 20, "funny": 20}


def test_an_own_file_may_import_what_is_beside_it(own, tmp_path):
    (tmp_path / "beside_the_jokes.py").write_text(OWN)

    assert len(labels_of(own("from beside_the_jokes import JOKES"))) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"own\.py:JOKES: SyntaxError: '\(' was never closed \(own\.py, line 1\)"),
        ("import no_such", "JOKES: ModuleNotFoundError: No module named 'no_such'"),
        (f"{OWN}Entry(kind='classify')", "JOKES: TypeError: .* missing 2 required keyword-only"),
        (OWN.replace("f1", "bleu"), "JOKES: metric 'bleu' is not known"),
        ("raise SystemExit", r"JOKES: SystemExit$"),
        ("PUNS = 1", "defines no Entry of the name 'JOKES'"),
    ],
)
def test_an_own_file_that_does_not_work_is_one_line(own, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        own(text)

    assert "\n" not in str(caught.value)


def test_an_own_file_that_is_not_there_is_one_line(own):
    with pytest.raises(ConfigError, match=r"none\.py is not there"):
        own(OWN, task="none.py:JOKES")
