"""JSON files: rows as lines, as an array, and SQuAD's articles."""

import json

import pytest
from helpers.task_files import read, write

from pipeline.common.errors import DataError
from pipeline.data import json_files
from pipeline.data.readers import read_rows

PARAGRAPH = {
    "context": "Ann saw Bob.",
    "qas": [
        {"id": "1", "question": "Who?", "answers": [{"text": "Bob", "answer_start": 8}]},
        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("extra", [{}, {"version": "v2.0"}])
def test_squads_own_json_is_a_row_per_question(tmp_path, indent, extra):
    nested = extra | {"data": [{"title": "A [t]", "paragraphs": [PARAGRAPH]}] * 2}
    path = write(tmp_path, "a.json", json.dumps(nested, indent=indent))

    rows = list(read_rows(path))

    assert len(rows) == 4
    assert rows[:2] == [
        {"question": q["question"], "context": "Ann saw Bob.", "answers": q["answers"]}
        for q in PARAGRAPH["qas"]
    ]


def test_other_json_files_hold_an_object_a_line(tmp_path):
    path = write(tmp_path, "a.json", '{"data": [1], "label": 0}\n{"data": [2], "label": 1}\n')

    assert [row["data"] for row in read_rows(path)] == [[1], [2]]


ROWS = [{"text": f"note [{n}] \u00fc", "label": n % 2, "of": {"n": [n]}} for n in range(40)]


@pytest.fixture(params=[20, 10_000])
def small_chunks(request, monkeypatch):
    """Read few characters at a time, so that objects are cut anywhere."""
    monkeypatch.setattr(json_files, "_CHUNK", request.param)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.json", lambda rows: rows),
        ("a.jsonl", lambda rows: rows),
        ("a.ndjson", lambda rows: rows),
        ("A.JSON", lambda rows: {"version": {"of": "1"}, "data": rows, "n": 1}),
    ],
)
def test_an_array_of_objects_is_a_row_each(tmp_path, indent, name, wrap):
    rows = ROWS * 20  # more than what is read at first
    path = write(tmp_path, name, json.dumps(wrap(rows), indent=indent) + "\n")

    assert list(read_rows(path)) == rows


def test_an_object_in_several_lines_holds_rows_under_any_key(tmp_path, caplog):
    path = write(tmp_path, "a.json", json.dumps({"rows": ROWS, "test": ROWS}, indent=2))

    assert list(read_rows(path)) == ROWS
    assert "a.json: entries test are not read" in caplog.text


def test_a_row_of_one_line_may_begin_with_a_list_of_objects(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "hi"}]}] * 2
    path = write(tmp_path, "a.json", "\n".join(map(json.dumps, rows)))

    assert list(read_rows(path)) == rows


def test_a_named_task_reads_its_published_array(tmp_path):
    rows = [{"instruction": f"Add {n}", "input": "", "output": "x"} for n in range(20)]
    path = write(tmp_path, "alpaca_data.json", json.dumps(rows, indent=1))

    assert len(read(tmp_path, task="alpaca", train=str(path)).splits["train"]) == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"},\n{"text": }]', "line 2 is not JSON: Expecting value"),
        ('[\n {"text": "a"}', "line 2 is not JSON"),
        ('[{"text": "a"}, 3]', "element 2 is not a JSON object but a int"),
        ('[{"text": "a", "text": "b"}]', "line 1 can't be read: an object has the key 'text' twi"),
        ('{"data": [{"a": 1}]}\n{"data": [{"a": 1}]}', "behind its array; .* end in .jsonl"),
        ("[]", "has no rows"),
    ],
)
def test_a_damaged_array_is_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(write(tmp_path, "a.json", content)))
