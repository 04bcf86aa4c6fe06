"""Rows with any number of classes: how they are read, and all stages for both kinds of models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.choice_workspace import make_tiny_decoder
from helpers.data_cards import make_data_card
from helpers.run_stages import run_stages, write_small_params
from helpers.stage_workspace import make_tokenizer, save_base
from helpers.task_files import read, write, write_jsonl
from helpers.tiny_models import make_tiny_model
from sklearn.metrics import average_precision_score, f1_score

from pipeline.common.errors import DataError
from pipeline.tasks.batching import build_dataloader
from pipeline.tasks.multi_label_classification import MultiLabelClassification

KIND = "multi-label-classification"
LABELS = [["a", "b"], [], ["b"], ["c", "b", "c"]]


def texts(count: int) -> list[str]:
    return [f"w{row % 60} w{row // 60}" for row in range(count)]


@pytest.mark.parametrize("column", ["label", "labels"])
def test_lists_of_labels_are_classes_in_order(tmp_path, column):
    train = write_jsonl(tmp_path / "train.jsonl", text=texts(40), **{column: LABELS * 10})
    dataset = read(tmp_path, train=train)

    assert (dataset.schema.kind, dataset.classes) == (KIND, ["a", "b", "c"])
    rows = [row for split in dataset.splits.values() for row in split["label"]]
    assert sorted(rows) == sorted([["a", "b"], [], ["b"], ["c", "b"]] * 10)


def test_a_csv_file_has_json_lists_and_ids_are_classes_by_size(tmp_path):
    lines = [
        f'{text},"{label}"' for text, label in zip(texts(40), ["[10, 9]", "[]"] * 20, strict=True)
    ]
    train = write(tmp_path, "train.csv", "\n".join(["text,label", *lines]))

    dataset = read(tmp_path, train=str(train))

    assert (dataset.schema.kind, dataset.classes) == (KIND, ["9", "10"])


def test_bad_lists_are_counted_and_an_unknown_class_is_one_of_them(tmp_path):
    bad = [None, "a", ["a", None], "[a"]
    train = write_jsonl(tmp_path / "train.jsonl", text=texts(44), label=LABELS * 10 + bad)
    test = write_jsonl(tmp_path / "test.jsonl", text=texts(4), label=[["a"], [], ["c"], ["a", "d"]])
    dataset = read(tmp_path, train=train, test=test, max_bad_rows=0.3)

    assert {reason: (bad.rows, bad.first) for reason, bad in dataset.dropped.items()} == {
        "train: no label": (1, 41),
        "train: label that is no list": (2, 42),
        "train: no label in a list": (1, 43),
        "test: label that train does not have": (1, 4),
    }


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[0, 1, 1], [1, 0, 0]],
            r"'label' has lists of 0 and 1, such as \['0', '1', '1'\]; a list",
        ),
        ([["a"], []], "lists of train must hold two classes or more, found a$"),
        ([[], []], "lists of train must hold two classes or more, found none$"),
        ([[0.5, 0.2], [0.1]], r"two classes or more, found 0\.5, 0\.2, 0\.1$"),
        ([[{"name": "a"}], []], r"data\.label: \{'name': 'a'\} is neither text nor a number"),
    ],
)
def test_lists_that_are_no_classes_are_one_line(tmp_path, labels, message):
    train = write_jsonl(tmp_path / "train.jsonl", text=texts(40), label=labels * 20)

    with pytest.raises(DataError, match=message):
        read(tmp_path, train=train, kind=KIND)


def test_rows_without_a_class_are_encoded_like_others():
    task = MultiLabelClassification(make_data_card(kind=KIND, task_name=KIND))
    columns: dict[str, Any] = {"text": texts(3), "text_pair": [None] * 3}

    def encoded(labels: list[list[str]]) -> Dataset:
        rows = Dataset.from_dict(columns | {"label": labels})
        return rows.map(
            lambda batch: task.encode(batch, make_tokenizer()), batched=True, batch_size=1
        )

    rows = encoded([[], ["yes"], ["yes", "no"]])
    (batch,) = build_dataloader(rows, task, make_tokenizer(), [[0, 1, 2]])

    assert rows.features["label"] == encoded([[], [], []]).features["label"]
    assert batch["labels"].tolist() == [[0, 0], [0, 1], [1, 1]]
    assert batch["labels"].dtype == torch.float32


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_all_stages_learn_which_classes_a_text_has(model, cwd, monkeypatch):
    base: Any = make_tiny_model(pad_token_id=0) if model == "bert" else make_tiny_decoder()
    save_base(cwd, base.base_model)
    words = [
        [word for bit, word in enumerate(("good", "bad", "w1")) if row >> bit & 1]
        for row in range(8)
    ]
    rows = 30 * words
    train = [" ".join(["w2", *row, f"w{10 + i % 50}"]) for i, row in enumerate(rows)]
    write_jsonl(cwd / "train.jsonl", text=train, label=rows)
    settings = {"metric": "average_precision", "class_weights": "balanced"}
    write_small_params(cwd, data={"train": "train.jsonl", **settings})

    card, evaluation, table = run_stages(monkeypatch)

    assert (card["task_name"], card["labels"]) == (KIND, ["bad", "good", "w1"])
    assert card["splits"]["train"]["labels"].keys() == {"bad", "good", "w1"}
    counts, rows = card["splits"]["train"]["labels"].values(), card["splits"]["train"]["rows"]
    assert card["class_weights"] == [(rows - n) / n for n in counts]
    assert evaluation["confusion"] is None
    truth, found = (
        np.array([[name in json.loads(cell) for name in card["labels"]] for cell in table[column]])
        for column in ("label", "prediction")
    )
    scores = table[[f"score {name}" for name in card["labels"]]].to_numpy()
    assert evaluation["f1_micro"] == pytest.approx(f1_score(truth, found, average="micro"))
    expected = average_precision_score(truth, scores)
    assert evaluation["average_precision"] == pytest.approx(expected, abs=1e-4)
    assert evaluation["average_precision"] > 0.7
    assert "average_precision" in Path("results/report.html").read_text()
