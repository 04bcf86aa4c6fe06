"""Splits that are drawn from train: by class, and never between rows that belong together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers.task_files import jsonl, read

from pipeline.common.errors import ConfigError, DataError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.dataset_spec import DatasetSpec
from pipeline.data.splits import SPLITS, SplitSpec, sample_groups, three_splits


def sides(found: dict[str, Dataset], column: str) -> dict[Any, set[str]]:
    """The splits in which each value of a column is."""
    places: dict[Any, set[str]] = {}
    for split, rows in found.items():
        for value in rows[column]:
            places.setdefault(value, set()).add(split)
    return places


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
    found = read(tmp_path, train=str(path)).splits

    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 240, "validation": 30, "test": 30,
    }  # fmt: skip
    assert all(len(places) == 1 for places in sides(found, "context").values())


def test_paragraphs_of_multirc_are_not_torn(tmp_path):
    columns: dict[str, list[Any]] = {key: [] for key in ("paragraph", "question", "answer", "idx")}
    for row in range(400):
        paragraph, question = row // 8, row // 2
        columns["paragraph"].append(f"paragraph {paragraph}")
        columns["question"].append(f"question {question}?")
        columns["answer"].append(f"answer {row}")
        columns["idx"].append({"paragraph": paragraph, "question": question, "answer": row})
    train = jsonl(tmp_path / "a.jsonl", **columns, label=[0, 1] * 200)
    found = read(tmp_path, task="super_glue/multirc", train=train).splits

    assert all(len(found[split]) == 40 for split in ("validation", "test"))
    for column in ("text", "group"):
        assert all(len(places) == 1 for places in sides(found, column).values())


def test_twins_and_questions_on_one_passage_stay_in_one_split(tmp_path):
    wino = {"sentence": [], "option1": [], "option2": [], "answer": []}
    for row in range(200):
        wino["sentence"].append(f"Ann {row // 2} met Bob as _ was {('early', 'late')[row % 2]}.")
        wino["option1"].append(f"Ann {row // 2}")
        wino["option2"].append("Bob")
        wino["answer"].append("12"[row % 2])
    twins = read(tmp_path, task="winogrande", train=jsonl(tmp_path / "w.jsonl", **wino)).splits
    asked = {
        "passage": [f"Ann met Bob {row // 2} times." for row in range(200)],
        "query": [f"@placeholder was born in {row}." for row in range(200)],
        "entities": [["Ann", "Bob"]] * 200,
        "answers": [["Ann"]] * 200,
        "idx": [{"passage": row // 2, "query": row} for row in range(200)],
    }
    clozes = read(
        tmp_path, task="super_glue/record", train=jsonl(tmp_path / "r.jsonl", **asked)
    ).splits

    for found in (twins, clozes):
        places = sides(found, "group")
        assert (len(places), len(found["test"])) == (100, 20)
        assert all(len(splits) == 1 for splits in places.values())


@pytest.mark.parametrize("text", [["passage", "question"], ["question"]])
def test_choices_on_one_passage_or_prompt_stay_in_one_split(tmp_path, text):
    columns = {
        "passage": [f"Ann met Bob {row // 4} times." for row in range(200)],
        "question": [f"Who met {row // 2}?" for row in range(200)],
        "choices": [["Ann", f"{row}"] for row in range(200)],
        "label": [0] * 200,
    }
    train = jsonl(tmp_path / "c.jsonl", **columns)
    found = read(tmp_path, train=train, text=text, kind="multiple-choice").splits

    places = sides(found, "group" if len(text) == 2 else "prompt")
    assert len(places) == (50 if len(text) == 2 else 100)
    assert all(len(splits) == 1 for splits in places.values())


def test_a_text_that_comes_twice_stays_in_one_split(tmp_path):
    texts = [f"text {row // 2}" for row in range(200)]
    train = jsonl(tmp_path / "a.jsonl", text=texts, label=["a", "a", "b", "b"] * 50)
    found = read(tmp_path, train=train).splits

    assert all(len(splits) == 1 for splits in sides(found, "text").values())
    for split in ("validation", "test"):
        assert sorted(found[split]["label"]) == ["a"] * 10 + ["b"] * 10


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
    found = sample_groups(codes, keys, count=50, generator=np.random.default_rng(seed))

    assert found.tolist() == by_row(codes, 50, np.random.default_rng(seed))


def test_groups_fill_a_split_and_a_large_one_stays_in_train():
    sizes = [200, *[1, 2, 3, 4, 5] * 20]
    keys = np.repeat(np.arange(len(sizes)), sizes)
    codes = np.zeros_like(keys)
    for seed in range(5):
        found = sample_groups(codes, keys, count=50, generator=np.random.default_rng(seed))
        again = sample_groups(codes, keys, count=50, generator=np.random.default_rng(seed))

        assert found.tolist() == again.tolist()
        assert len(found) == 50
        assert not np.isin(keys[found], np.delete(keys, found)).any()
        assert 0 not in keys[found]


def test_splits_that_are_given_are_not_looked_at():
    rows = Dataset.from_dict({"text": ["x", "x"]})
    found, origins = three_splits(
        dict.fromkeys(SPLITS, rows), {}, SplitSpec(group_by=("text",), stratify_by="text", seed=0)
    )

    assert (found, origins) == (dict.fromkeys(SPLITS, rows), {})


def test_rows_that_all_belong_together_cannot_be_split(tmp_path: Path):
    train = jsonl(
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
    train = jsonl(tmp_path / "a.jsonl", prompt=["x"] * 20, completion=["y"] * 20)
    with pytest.raises(
        ConfigError, match="group_by must be a column of the kind text-generation, one"
    ):
        read(tmp_path, task="mine", train=train)
