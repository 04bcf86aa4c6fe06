"""`prepare --preview N` shows the first rows as they are read and as the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.params_file import write_params
from helpers.stage_workspace import make_word_tokenizer
from helpers.task_files import write_rows
from helpers.tiny_models import make_tiny_config

from pipeline.__main__ import run
from pipeline.common.data_card import DataCard
from pipeline.common.data_facts import describe_columns
from pipeline.common.errors import ConfigError
from pipeline.common.paths import Paths
from pipeline.stages import prepare

WORDS = ("[PAD]", "[UNK]", "</s>", "a", "b", "c", ":")
KINDS: dict[str, tuple[str, dict[str, Any], str, str, float]] = {
    "text-classification": (
        "bert",
        {"text": "a b d", "label": "yes", "id": 7},
        "text, label; ignored: id",
        "3 tokens: a b [UNK] -> yes",
        0.333333,
    ),
    "multiple-choice": (
        "bert",
        {"question": "a", "choices": ["b", "c b"], "label": 1},
        "prompt from question, choices, label",
        "7 tokens: [UNK] : a [UNK] : c b -> choice 1: c b",
        0.307692,
    ),
    "multiple-choice-lm": (
        "llama",
        {"question": "a", "choices": ["b", "c b"], "label": 1},
        "prompt from question, choices, label",
        "7 tokens: [UNK] : a [UNK] : c b -> choice 1: c b",
        0.25,
    ),
    "causal-lm": (
        "llama",
        {"prompt": "a b :", "completion": "c"},
        "prompt, completion",
        "5 tokens: a b : -> c </s>",
        0.0,
    ),
    "seq2seq-lm": (
        "t5",
        {"prompt": "a " * 20, "completion": "c"},
        "prompt, completion",
        f"18 tokens, 4 more cut: {'a ' * 15}a -> c </s>",
        0.0,
    ),
    "token-classification": (
        "bert",
        {"tokens": ["a", "b"], "tags": ["O", "B-X"]},
        "tokens, tags",
        "2 tokens: a b -> O B-X",
        0.0,
    ),
    "question-answering": (
        "bert",
        {"question": "a", "context": "b c", "answers": {"text": ["c"], "answer_start": [2]}},
        "question, context, answers",
        "3 tokens: a b c -> c",
        0.0,
    ),
}

_SETTINGS = {"question-answering": {"max_length": 32}}


def _workspace(folder: Path, model: str, rows: list[dict[str, Any]], **data: Any) -> None:
    make_tiny_config(model).save_pretrained(folder / "model")
    words = make_word_tokenizer(WORDS, unknown="[UNK]", pad_token="[PAD]", eos_token="</s>")
    words.save_pretrained(folder / "model")
    write_rows(folder / "train.jsonl", rows)
    files = {"task": "files", "train": "train.jsonl", "max_length": 16}
    write_params(folder, {"model": {"name": "model"}, "data": files | data})


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_shown_as_it_is_read_and_as_the_model_sees_it(cwd, capsys, kind):
    model, row, columns, shown, _ = KINDS[kind]
    _workspace(cwd, model, [row] * 30, **_SETTINGS.get(kind, {}))
    run("prepare", "--preview", "1")

    read = ", ".join(f"{name}={value!r}" for name, value in row.items())
    assert capsys.readouterr().out.splitlines() == [
        f"[prepare] columns: {columns}",
        f"[prepare] row 1 as read: {read}",
        f"[prepare] row 1 for the model, {shown}",
    ]
    assert sorted(path.name for path in cwd.iterdir()) == [
        "model",
        "params.yaml",
        "train.jsonl",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_holds_the_same_facts(cwd, kind):
    model, row, columns, shown, unknown = KINDS[kind]
    rows = [row, row | {"label": "no"} if kind == "text-classification" else row]
    files = dict.fromkeys(("train", "validation", "test"), "train.jsonl")
    limits = {"max_truncated": 1.0, "max_unknown": 1.0}
    _workspace(cwd, model, rows, **_SETTINGS.get(kind, {}) | files | limits)
    prepare.main(Paths())
    card = DataCard.read(Paths().prepared)

    assert card.first_row is not None
    assert shown.endswith(f": {card.first_row.describe()}")
    assert describe_columns(card) == f"columns: {columns}"
    assert card.splits["test"].unknown == unknown


def test_rows_after_the_first_ones_are_not_read_and_bad_ones_are_told(cwd, capsys):
    rows = [{"text": " ", "label": "x"}, {"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    _workspace(cwd, "bert", [*rows[:2], *rows[1:2] * 1100], positive_class="y")
    with (cwd / "train.jsonl").open("a") as file:
        file.write("no JSON\n")
    prepare.main(Paths(), preview=2)

    lines = capsys.readouterr().out.splitlines()
    assert lines[2:3] + lines[4:] == [
        "[prepare] row 1 is bad: empty text",
        "[prepare] row 2 for the model, 1 token: a -> x",
    ]


def test_a_preview_of_bad_rows_only_says_why(cwd, capsys):
    _workspace(cwd, "bert", [{"tokens": "a b", "tags": "x y"}])
    prepare.main(Paths(), preview=1)

    assert capsys.readouterr().out.splitlines()[1:] == ["[prepare] row 1 is bad: no list of text"]


def test_a_wrong_setting_is_an_error_of_the_preview_too(cwd):
    _workspace(cwd, "bert", [{"text": "a", "label": "x"}], metric="rouge1")
    with pytest.raises(ConfigError, match=r"data\.metric must be auto or one of"):
        prepare.main(Paths(), preview=2)
    with pytest.raises(SystemExit, match=r"^error: Invalid value for '--preview'.* see python"):
        run("prepare", "--preview", "0")
