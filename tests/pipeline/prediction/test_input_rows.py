"""Rows to predict: from texts of a command line, completed so that no prediction depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.data_cards import make_data_card
from helpers.generation_workspace import make_tokenizer
from helpers.task_files import write_rows
from PIL import Image

from pipeline.common.errors import DataError
from pipeline.prediction.input_rows import complete_rows
from pipeline.prediction.predict import encode
from pipeline.tasks.registry import SCHEMAS
from pipeline.tasks.text_generation import CausalLM

CHAT = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]


def complete(kind: str, *texts: str) -> dict[str, Any]:
    (row,) = complete_rows(texts, SCHEMAS[kind], ["O", "B-PER"])
    return row


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        ("text-classification", ["a"], {"text": "a", "text_pair": None}),
        ("text-classification", ["a", "b"], {"text": "a", "text_pair": "b"}),
        ("multi-label-classification", ["a", "b"], {"text": "a", "text_pair": "b", "label": []}),
        ("token-classification", ["a b", "c"], {"tokens": ["a", "b", "c"]}),
        ("question-answering", ["a?", "b"], {"question": "a?", "context": "b"}),
        ("multiple-choice", ["a", "b", "c"], {"prompt": "a", "choices": ["b", "c"]}),
        ("text-generation", ["a"], {"prompt": "a", "messages": None}),
    ],
)
def test_texts_make_a_row(kind: str, texts: list[str], expected: dict[str, Any]):
    row = complete(kind, *texts)

    assert {name: row[name] for name in expected} == expected
    assert row.keys() == SCHEMAS[kind].features.keys()


def test_path_makes_a_row(tmp_path: Path):
    path = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(path)

    assert complete("image-classification", str(path))["image"]["path"] == str(path)


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        ("text-classification", ["a", "b", "c"], "a row has 2 texts, text and text_pair; got 3"),
        ("question-answering", ["a?"], r"--text row 1: no 'context' \(it has question; question-"),
        ("multiple-choice", ["a", "b"], "--text row 1: fewer than two choices"),
        ("token-classification", [" "], "--text row 1: empty text"),
        ("text-generation", ["a", "b"], "a row has 1 text, prompt; got 2"),
        ("image-classification", ["no.png"], r"--text row 1: .*no\.png"),
    ],
)
def test_texts_that_make_no_row_are_one_line(kind: str, texts: list[str], message: str):
    with pytest.raises(DataError, match=message) as caught:
        complete(kind, *texts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("with_answer", "without"),
    [
        ({"prompt": "w1 w2", "completion": "w3 w4"}, {"prompt": "w1 w2"}),
        ({"messages": CHAT}, {"messages": CHAT[:1]}),
    ],
)
def test_prompt_is_that_of_a_row_with_an_answer(
    tmp_path: Path, with_answer: dict[str, Any], without: dict[str, Any]
):
    task, tokenizer = CausalLM(make_data_card(max_length=32, labels=[])), make_tokenizer()
    prompts = []
    for row in (with_answer, without):
        path = Path(write_rows(tmp_path / "in.jsonl", [row]))
        rows = list(complete_rows(path, task.schema, []))
        prompts += task.list_prompts(encode(task, rows, tokenizer))

    assert prompts[0] == prompts[1] != []


def test_form_that_needs_fewer_columns_is_named(tmp_path: Path):
    path = Path(write_rows(tmp_path / "in.jsonl", [{"question": "a"}]))
    with pytest.raises(DataError, match=r"no 'prompt' \(it has question; .* needs prompt or mess"):
        list(complete_rows(path, SCHEMAS["text-generation"], []))
