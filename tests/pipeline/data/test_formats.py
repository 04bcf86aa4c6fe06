"""CoNLL files, SQuAD's JSON and image folders: what is in them, or one line that says why not."""

import json
from pathlib import Path

import pytest
from helpers.task_files import write

from pipeline.data.readers import read_rows


@pytest.mark.parametrize("ending", ["conll", "txt"])
@pytest.mark.parametrize("blank", [" ", "\t", " \t "])
def test_a_conll_file_holds_a_sentence_per_block(tmp_path, ending, blank):
    lines = ["-DOCSTART- -X- O O", "", "EU NNP I-NP B-ORG", "# CD O O", "", "", "1\xa0000 O "]
    path = write(tmp_path, f"a.{ending}", "\r\n".join(lines).replace(" ", blank))

    assert list(read_rows(path)) == [
        {"tokens": ["EU", "#"], "tags": ["B-ORG", "O"]},
        {"tokens": ["1\xa0000"], "tags": ["O"]},
    ]


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


def test_a_folder_holds_the_files_of_each_class(tmp_path):
    for name in ("dog/2.png", "cat/b/1.jpg", "cat/a.txt", "cat/.hidden", ".git/x", "readme"):
        write(tmp_path, name, "x")

    assert [(Path(row["image"]).name, row["label"]) for row in read_rows(tmp_path)] == [
        ("a.txt", "cat"),
        ("1.jpg", "cat"),
        ("2.png", "dog"),
    ]
