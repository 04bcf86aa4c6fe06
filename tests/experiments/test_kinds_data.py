"""The data and models that experiments.kinds makes, on a few rows."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from experiments.kinds import render_table
from experiments.kinds_cases import CASES
from experiments.kinds_models import write_bart, write_digits
from experiments.kinds_text import (
    Definition,
    find_definitions,
    make_answer_row,
    make_call_row,
    make_length_row,
    make_markup_row,
    write_rows,
)
from experiments.settings import ROOT, write_params
from pipeline.common.pruning_params import load_params

SOURCE = '''
def make_tuple(self, seq, *more, size, deep=True):
    """Make one tuple of all the given parts.

    The words `seq` and ``more[0] + 1`` of :class:`~library.Tuple` are code here.

    Parameters
    ----------
    seq : list
        What the tuple begins with. It may be empty.
    size : int
        How many parts there are.

    Returns
    -------
    made : tuple
        All parts in one.

    Examples
    --------
    >>> make_tuple([])
    """
    found = [*seq]
    return tuple(found)


def no_words():
    return 1
'''


@pytest.fixture
def definition() -> Definition:
    (only,) = find_definitions(SOURCE, "library/tuples.py")
    return only


def test_a_file_always_lies_in_one_split_and_all_splits_get_files():
    splits = [next(find_definitions(SOURCE, f"library/{n}.py")).split for n in range(60)]

    assert set(splits) == {"train", "validation", "test"}
    assert splits == [next(find_definitions(SOURCE, f"library/{n}.py")).split for n in range(60)]


def test_the_length_is_of_the_code_below_the_docstring(definition):
    assert make_length_row(definition) == {
        "signature": "make_tuple(self, seq, *more, size, deep=True)",
        "description": "Make one tuple of all the given parts.",
        "log_lines": "1.000",
    }


def test_what_stood_between_backticks_is_code_and_they_are_gone(definition):
    row = make_markup_row(definition)
    words = " ".join(row["tokens"])
    code = [word for word, tag in zip(row["tokens"], row["tags"], strict=True) if tag != "O"]

    assert words == "The words seq and more [ 0 ] + 1 of library . Tuple are code here ."
    assert " ".join(code) == "seq more [ 0 ] + 1 library . Tuple"
    assert row["tags"].count("B-CODE") == 3


def test_an_answer_stands_at_its_place_in_a_text_without_headings(definition):
    row = make_answer_row(definition)
    (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]

    assert row["context"][start : start + len(text)] == text
    assert "Returns" not in row["context"]
    assert ">>>" not in row["context"]
    assert (row["question"], text) in {
        ("What is seq of make_tuple?", "What the tuple begins with"),
        ("What is size of make_tuple?", "How many parts there are"),
    }  # "All parts in one" is shorter than an answer may be


def test_a_call_names_what_has_no_default(definition):
    assert make_call_row(definition) == {
        "prompt": "make_tuple(self, seq, *more, size, deep=True)",
        "completion": "make_tuple(seq, size=size)",
    }


def test_equal_texts_are_written_once(definition, tmp_path: Path):
    write_rows(tmp_path, make_call_row, [definition, definition])
    lines = {path.stem: path.read_text().splitlines() for path in tmp_path.iterdir()}

    assert lines.keys() == {"train", "validation", "test"}
    assert [json.loads(row) for row in lines[definition.split]] == [make_call_row(definition)]
    assert sum(map(len, lines.values())) == 1


def test_digits_are_of_five_classes_and_no_image_is_in_both_splits(tmp_path: Path):
    write_digits(tmp_path)
    names = {
        split: {path.name for path in (tmp_path / split).rglob("*.png")}
        for split in ("train", "test")
    }

    assert [path.name for path in sorted((tmp_path / "train").iterdir())] == list("56789")
    assert len(names["train"]) + len(names["test"]) == 896
    assert not names["train"] & names["test"]
    with Image.open(next((tmp_path / "test").rglob("*.png"))) as image:
        assert image.size == (8, 8)


def test_a_tiny_bart_is_a_stock_checkpoint_whose_texts_end(tmp_path: Path):
    curve = write_bart(tmp_path, [f"f{n}(x)" for n in range(40)], steps=30)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids = tokenizer("f1(x)", return_tensors="pt")["input_ids"]

    assert curve[-1] < curve[0] / 2
    assert ids[0, -1] == tokenizer.eos_token_id == model.config.eos_token_id
    assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


@pytest.mark.parametrize("name", CASES)
def test_the_lines_of_each_kind_make_a_valid_params_file(name, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = YAML(typ="safe").load(CASES[name].changes)
    write_params(changes)

    assert load_params().data.task == changes["data"]["task"]


def test_the_docs_show_the_table_and_the_lines():
    assert render_table() in (ROOT / "docs" / "results.md").read_text()
