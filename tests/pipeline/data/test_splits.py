"""Splits that are drawn from train: by class, and never between rows that belong together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers.task_files import read, write_jsonl

from pipeline.common.errors import ConfigError, DataError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.dataset_spec import DatasetSpec
from pipeline.data.splits import SPLITS, SplitSpec, make_splits, sample_groups


def count_groups(splits: dict[str, Dataset], column: str) -> int:
    """Return the number of values of a column; each is in one split only."""
    values = {split: {*rows[column]} for split, rows in splits.items()}
    count = len(set().union(*values.values()))
    assert count == sum(map(len, values.values())), f"{column} is torn"
    return count


def test_questions_of_one_paragraph_stay_in_one_split(tmp_path):
    paragraphs = [
        {
            "context": f"Ann has {n} hats.",
            "qas": [
                {"question": f"{ask} {n}?", "answers": [{"text": "Ann", "answer_start": 0}]}
                for ask in ("Who has", "Whose are", "Name her of")
            ],
        }
        for n in range(100)
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    splits = read(tmp_path, train=str(path)).splits

    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 240, "validation": 30, "test": 30,
    }  # fmt: skip
    assert count_groups(splits, "context") == 100


def test_paragraphs_of_multirc_are_not_torn(tmp_path):
    columns: dict[str, list[Any]] = {key: [] for key in ("paragraph", "question", "answer", "idx")}
    for row in range(400):
        paragraph, question = row // 8, row // 2
        columns["paragraph"].append(f"paragraph {paragraph}")
        columns["question"].append(f"question {question}?")
        columns["answer"].append(f"answer {row}")
        columns["idx"].append({"paragraph": paragraph, "question": question, "answer": row})
    train = write_jsonl(tmp_path / "a.jsonl", **columns, label=[0, 1] * 200)
    splits = read(tmp_path, task="super_glue/multirc", train=train).splits

    assert all(len(splits[split]) == 40 for split in ("validation", "test"))
    assert count_groups(splits, "text") == 50
    assert count_groups(splits, "group") == 200


def test_twins_and_questions_on_one_passage_stay_in_one_split(tmp_path):
    wino = {"sentence": [], "option1": [], "option2": [], "answer": []}
    for row in range(200):
        wino["sentence"].append(f"Ann {row // 2} met Bob as _ was {('early', 'late')[row % 2]}.")
        wino["option1"].append(f"Ann {row // 2}")
        wino["option2"].append("Bob")
        wino["answer"].append("12"[row % 2])
    twins = read(
        tmp_path, task="winogrande", train=write_jsonl(tmp_path / "w.jsonl", **wino)
    ).splits
    questions = {
        "passage": [f"Ann met Bob {row // 2} times." for row in range(200)],
        "query": [f"@placeholder was born in {row}." for row in range(200)],
        "entities": [["Ann", "Bob"]] * 200,
        "answers": [["Ann"]] * 200,
        "idx": [{"passage": row // 2, "query": row} for row in range(200)],
    }
    clozes = read(
        tmp_path, task="super_glue/record", train=write_jsonl(tmp_path / "r.jsonl", **questions)
    ).splits

    for splits in (twins, clozes):
        assert (count_groups(splits, "group"), len(splits["test"])) == (100, 20)


@pytest.mark.parametrize("text", [["passage", "question"], ["question"]])
def test_choices_on_one_passage_or_prompt_stay_in_one_split(tmp_path, text):
    columns = {
        "passage": [f"Ann met Bob {row // 4} times." for row in range(200)],
        "question": [f"Who met {row // 2}?" for row in range(200)],
        "choices": [["Ann", f"{row}"] for row in range(200)],
        "label": [0] * 200,
    }
    train = write_jsonl(tmp_path / "c.jsonl", **columns)
    splits = read(tmp_path, train=train, text=text, kind="multiple-choice").splits

    column, count = ("group", 50) if len(text) == 2 else ("prompt", 100)
    assert count_groups(splits, column) == count


def test_a_text_that_comes_twice_stays_in_one_split(tmp_path):
    texts = [f"text {row // 2}" for row in range(200)]
    train = write_jsonl(tmp_path / "a.jsonl", text=texts, label=["a", "a", "b", "b"] * 50)
    splits = read(tmp_path, train=train).splits

    assert count_groups(splits, "text") == 100
    for split in ("validation", "test"):
        assert sorted(splits[split]["label"]) == ["a"] * 10 + ["b"] * 10


def by_row(codes: Any, count: int, generator: np.random.Generator) -> list[int]:
    """The same share of the rows of each code, drawn one by one."""
    taken: list[int] = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        share = max(round(count * len(rows) / len(codes)), 1)
        taken += generator.permutation(rows)[: min(share, len(rows) - 1)].tolist()
    return sorted(taken)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_all_differ_are_drawn_one_by_one(seed):
    draw = np.random.default_rng(seed)
    codes, keys = draw.integers(4, size=500), draw.permutation(500)
    rows = sample_groups(codes, keys, count=50, generator=np.random.default_rng(seed))

    assert rows.tolist() == by_row(codes, 50, np.random.default_rng(seed))


def test_groups_fill_a_split_and_a_large_one_stays_in_train():
    sizes = [200, *[1, 2, 3, 4, 5] * 20]
    keys = np.repeat(np.arange(len(sizes)), sizes)
    codes = np.zeros_like(keys)
    for seed in range(5):
        rows, again = (
            sample_groups(codes, keys, count=50, generator=np.random.default_rng(seed))
            for _ in range(2)
        )

        assert rows.tolist() == again.tolist()
        assert len(rows) == 50
        assert not np.isin(keys[rows], np.delete(keys, rows)).any()
        assert 0 not in keys[rows]


def test_splits_that_are_given_are_not_looked_at():
    rows = Dataset.from_dict({"text": ["x", "x"]})
    splits, origins = make_splits(
        dict.fromkeys(SPLITS, rows), {}, SplitSpec(group_by=("text",), stratify_by="text", seed=0)
    )

    assert (splits, origins) == (dict.fromkeys(SPLITS, rows), {})


def test_rows_that_all_belong_together_cannot_be_split(tmp_path: Path):
    train = write_jsonl(
        tmp_path / "a.jsonl",
        question=[f"Who {n}?" for n in range(40)],
        context=["Ann."] * 40,
        answers=[{"text": ["Ann"], "answer_start": [0]}] * 40,
    )
    with pytest.raises(DataError, match=r"train has 40 rows in groups of .*, 1 in all, too few"):
        read(tmp_path, train=train)


def test_a_task_keeps_rows_together_by_a_column_of_its_kind(tmp_path, monkeypatch):
    spec = DatasetSpec(kind="text-generation", template=dict, metric="perplexity", group_by="text")
    monkeypatch.setitem(CATALOG, "mine", spec)
    train = write_jsonl(tmp_path / "a.jsonl", prompt=["x"] * 20, completion=["y"] * 20)
    with pytest.raises(
        ConfigError, match="group_by must be a column of the kind text-generation, one"
    ):
        read(tmp_path, task="mine", train=train)
