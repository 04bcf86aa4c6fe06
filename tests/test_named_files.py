"""Named tasks with rows of local files, which have the columns of the hub or those of a reader."""

import json

import pytest
from test_tasks import jsonl, labels_of, read

from lightpeft.errors import ConfigError


def test_a_named_task_can_be_read_from_local_files(tmp_path):
    texts = [f"a {i}" for i in range(40)]
    pairs = {"sentence1": texts, "sentence2": ["c", "d"] * 20, "label": [0, 1] * 20}
    found = read(tmp_path, task="glue/mrpc", train=jsonl(tmp_path / "a.jsonl", **pairs))

    assert found.classes == ["not_equivalent", "equivalent"]
    assert set(found.splits["train"]["text_pair"]) == {"c", "d"}


def test_whole_scores_of_a_named_task_are_scores(tmp_path):
    texts = [f"a {i}" for i in range(40)]
    rows = {"sentence1": texts, "sentence2": texts, "label": [0, 5, 3, 1] * 10}

    assert read(tmp_path, task="glue/stsb", train=jsonl(tmp_path / "a.jsonl", **rows)).classes == []


def test_values_that_a_template_does_not_know_are_bad_rows(tmp_path):
    labels = ["0", "equivalent", 1, *[0, 1] * 20, 7, "x", None, [1]]
    rows = [{"sentence1": f"a {i}", "sentence2": "b", "label": x} for i, x in enumerate(labels)]
    rows += [{"sentence1": "a", "sentence2": "b"}, rows[0] | {"sentence1": "\ud83d"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path, task="glue/mrpc", train=str(path), max_bad_rows=0.2)

    assert len(labels_of(found)) == 43
    unknown = found.dropped["train: a value that the task does not know"]
    assert unknown["name"] == "IndexError: tuple index out of range"
    assert {reason: bad["rows"] for reason, bad in found.dropped.items()} == {
        "train: a value that the task does not know": 3,
        "train: no label": 1,
        "train: no 'label'": 1,
        "train: text with half a character": 1,
    }


def test_columns_of_a_named_task_are_its_own(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.kind must be auto with data\.task: glue/sst2"):
        read(tmp_path, task="glue/sst2", kind="choice")


def test_rows_of_one_question_stay_a_group(tmp_path):
    rows = [
        {"paragraph": f"p {i // 4}", "question": "q", "answer": "a", "label": i % 2,
         "idx": {"paragraph": i // 4, "question": 0}}
        for i in range(40)
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path, task="super_glue/multirc", train=str(path))

    assert {group for rows in found.splits.values() for group in rows["group"]} == {
        f"{number}-0" for number in range(10)
    }
