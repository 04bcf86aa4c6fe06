"""Which columns a template reads is found by trial, whatever the template does."""

from typing import Any

import pytest
from helpers.task_files import read, write_jsonl

from pipeline.data.columns import find_columns

ROWS = [
    {"a": "x", "b": "y", "lang": "en", "label": "0", "id": 1},
    {"a": "z", "b": "w", "lang": "en", "label": "1", "id": 2},
]


def _join(row: dict[str, Any]) -> dict[str, Any] | None:
    if row["lang"] != "en":
        return None
    return {"text": f"{row['a']}\n{row['b']}", "text_pair": None, "label": row.get("label")}


def test_columns_are_those_that_a_field_changes_with():
    assert find_columns(_join, ROWS) == (
        {"text": ("a", "b"), "label": ("label",), "row": ("lang",)},
        ("id",),
    )


def test_nothing_is_claimed_of_a_template_that_maps_no_row():
    assert find_columns(lambda row: {"text": row["none"]}, ROWS) == ({}, ())


@pytest.mark.parametrize(
    ("columns", "read_columns", "ignored"),
    [
        (
            {"premise": "ab", "hypothesis": "cd", "label": [0, 1]},
            {"text": ("premise",), "text_pair": ("hypothesis",), "label": ("label",)},
            (),
        ),
        (
            {"instruction": "ab", "input": ["", "c"], "output": "de", "source": "xy"},
            {"prompt": ("instruction", "input"), "completion": ("output",)},
            ("source",),
        ),
        (
            {"tokens": [["a"], ["b", "c"]], "ner_tags": [["O"], ["O", "B-X"]], "id": "xy"},
            {"tokens": ("tokens",), "tags": ("ner_tags",)},
            ("id",),
        ),
    ],
)
def test_the_columns_of_a_file(tmp_path, columns, read_columns, ignored):
    path = write_jsonl(tmp_path / "train.jsonl", **{name: [*v] * 12 for name, v in columns.items()})
    dataset = read(tmp_path, train=path, validation=path, test=path)

    assert (dataset.columns, dataset.ignored_columns) == (read_columns, ignored)
