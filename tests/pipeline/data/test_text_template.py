"""Texts of several columns: data.template."""

from typing import Any

import pytest
from helpers.task_files import read, write_jsonl

from pipeline.common.errors import ConfigError, DataError
from pipeline.tasks.text_template import compile_template

ROWS = {
    "title": [title and f"{title}{i}" for i in range(10) for title in ("A", "", None)] + [" "],
    "body": ["one", "two", "3"] * 10 + [None],
    "stars": [5, 4.5, None] * 10 + [None],
    "label": ["x", "y"] * 15 + ["x"],
}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"a b": "{x}", "n": 1.5}, "{{x}: 1.5}"),
        ({"a b": None, "n": 0}, "{: 0}"),
        ({"a b": "", "n": float("nan")}, None),
        ({"a b": ["x"], "n": 1}, ["x"]),
    ],
)
def test_columns_are_filled_in_and_a_missing_one_is_empty(row: dict[str, Any], text: Any):
    assert compile_template("{{{a b}: {n}}}", [row], label=None)(row) == text


def test_one_text_of_several_columns_is_classified(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", **ROWS)
    dataset = read(tmp_path, train=train, template="{title}\n{body} {stars}", max_bad_rows=0.1)

    texts = {text for rows in dataset.splits.values() for text in rows["text"]}
    assert texts == {"\ntwo 4.5", "\n3 ", *(f"A{i}\none 5" for i in range(10))}
    assert dataset.schema.kind == "text-classification"
    assert [(reason, bad.rows) for reason, bad in dataset.dropped.items()] == [
        ("train: empty text", 1)
    ]


def test_a_template_makes_prompts_or_plain_text(tmp_path):
    train = write_jsonl(
        tmp_path / "train.jsonl", **{name: ROWS[name] for name in ("title", "label")}
    )
    settings = {"train": train, "kind": "text-generation", "template": "Rate {title}:"}

    for label, first in (("auto", ("", "Rate A1:")), ("label", ("Rate A1:", "y"))):
        rows = read(tmp_path, **settings, label=label, max_bad_rows=0.8).splits["train"]
        assert first in zip(rows["prompt"], rows["completion"], strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "{tittle}"}, "data.template: train has no column 'tittle' .*did you mean"),
        ({"template": "{TITLE}"}, "has no column 'TITLE' among .*; did you mean 'title'"),
        ({"template": "{title"}, r"data.template: write \{column\}, and \{\{ or \}\} for a brace"),
        ({"template": "title"}, "data.template needs a column in braces, got 'title'"),
        ({"template": "{body} {label}"}, "data.template must not show the label, 'label'"),
        ({"template": "{body}", "text": "title"}, "data.text must be auto with data.template"),
        ({"template": "{body}", "kind": "multiple-choice"}, "data.template is for data.kind text-"),
        ({"template": "{body}", "task": "glue/sst2"}, "data.template must be auto with data.task"),
    ],
)
def test_a_template_that_does_not_fit_is_one_line(tmp_path, changes, message):
    train = write_jsonl(tmp_path / "train.jsonl", **ROWS)

    with pytest.raises((ConfigError, DataError), match=message):
        read(tmp_path, **{"train": train} | changes)
