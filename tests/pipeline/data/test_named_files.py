"""Named tasks with rows of local files, which have the columns of the hub or those of a reader."""

import json

import pytest
from helpers.hub_rows import CLASSIFY, OTHERS, SUPER
from helpers.task_files import list_labels, read, write_jsonl, write_rows
from PIL import Image

from pipeline.common.errors import ConfigError
from pipeline.data.catalog.registry import CATALOG
from pipeline.data.dataset_spec import RowError


def test_a_named_task_can_be_read_from_local_files(tmp_path):
    texts = [f"a {i}" for i in range(40)]
    pairs = {"sentence1": texts, "sentence2": ["c", "d"] * 20, "label": [0, 1] * 20}
    dataset = read(tmp_path, task="glue/mrpc", train=write_jsonl(tmp_path / "a.jsonl", **pairs))

    assert dataset.classes == ["not_equivalent", "equivalent"]
    assert set(dataset.splits["train"]["text_pair"]) == {"c", "d"}


def test_whole_scores_of_a_named_task_are_scores(tmp_path):
    texts = [f"a {i}" for i in range(40)]
    rows = {"sentence1": texts, "sentence2": texts, "label": [0, 5, 3, 1] * 10}

    assert (
        read(tmp_path, task="glue/stsb", train=write_jsonl(tmp_path / "a.jsonl", **rows)).classes
        == []
    )


def test_values_that_do_not_fit_a_template_are_bad_rows(tmp_path):
    labels = ["0", "equivalent", 1, *[0, 1] * 20, 7, "x", None, [1]]
    rows = [{"sentence1": f"a {i}", "sentence2": "b", "label": x} for i, x in enumerate(labels)]
    rows += [{"sentence1": "a", "sentence2": "b"}, rows[0] | {"sentence1": "\ud83d"}]
    train = write_rows(tmp_path / "a.jsonl", rows)
    dataset = read(tmp_path, task="glue/mrpc", train=train, max_bad_rows=0.2)

    assert len(list_labels(dataset)) == 43
    unknown = dataset.dropped["train: a value that does not fit"]
    assert unknown.name == "class number must be from 0 to 1, got 7"
    assert {reason: bad.rows for reason, bad in dataset.dropped.items()} == {
        "train: a value that does not fit": 3,
        "train: no label": 1,
        "train: no 'label'": 1,
        "train: text with an unpaired surrogate": 1,
    }


def test_columns_of_a_named_task_are_its_own(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.kind must be auto with data\.task: glue/sst2"):
        read(tmp_path, task="glue/sst2", kind="multiple-choice")


def test_rows_of_one_question_stay_a_group(tmp_path):
    rows = [
        {"paragraph": f"p {i // 4}", "question": "q", "answer": "a", "label": i % 2,
         "idx": {"paragraph": i // 4, "question": 0}}
        for i in range(40)
    ]  # fmt: skip
    train = write_rows(tmp_path / "a.jsonl", rows)
    splits = read(tmp_path, task="super_glue/multirc", train=train).splits

    assert {group for rows in splits.values() for group in rows["group"]} == {
        f"{number}-0" for number in range(10)
    }


@pytest.mark.parametrize(
    "name",
    ["glue/sst2", "super_glue/boolq", "super_glue/copa", "super_glue/wsc", "super_glue/wic",
     "boolq", "piqa", "social_iqa", "winogrande"],
)  # fmt: skip
def test_a_named_task_takes_numbers_and_booleans_as_text(name):
    row, expected = (CLASSIFY | SUPER | OTHERS)[name]

    assert CATALOG[name].template({key: str(value) for key, value in row.items()}) == expected
    with pytest.raises(RowError, match="maybe"):
        CATALOG[name].template(row | {"answer" if "answer" in row else "label": "maybe"})


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("false", "False"),
        (" True", "True"),
        (False, "False"),
        (1.0, "True"),
        ("", None),
        (-1, None),
    ],
)
def test_a_truth_may_be_a_boolean_or_its_text(value, label):
    converted = CATALOG["super_glue/boolq"].template(
        CLASSIFY["super_glue/boolq"][0] | {"label": value}
    )

    assert converted is None if label is None else converted["label"] == label


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_squad_is_read_from_its_own_file(tmp_path, name):
    answers = [{"text": "Bob", "answer_start": 8}]
    questions = [{"id": str(n), "question": f"Who {n}?", "answers": answers} for n in range(2)]
    questions.append({"id": "2", "question": "Why?", "is_impossible": True, "answers": []})
    paragraphs = [{"context": f"Ann saw Bob {n} times.", "qas": questions} for n in range(20)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"title": "A", "paragraphs": paragraphs}]}))
    train = read(tmp_path, task=name, train=str(path)).splits["train"]

    assert train[0]["answers"] == {"text": ["Bob"], "answer_start": [8]}
    assert train[2]["answers"] == {"text": [], "answer_start": []}


def test_conll2003_is_read_from_a_conll_file(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("".join(f"EU NNP B-ORG\nrejects VBZ O\n{n} CD O\n\n" for n in range(20)))
    train = read(tmp_path, task="conll2003", train=str(path)).splits["train"]

    assert train["tags"][0] == ["B-ORG", "O", "O"]


@pytest.mark.parametrize("name", ["cifar10", "mnist", "beans"])
def test_images_of_a_named_task_are_read_from_a_folder(tmp_path, name):
    classes = CATALOG[name].classes[:2]
    for number in range(20):
        path = tmp_path / "images" / classes[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    dataset = read(tmp_path, task=name, train=str(tmp_path / "images"))

    assert dataset.classes == list(CATALOG[name].classes)
    assert set(list_labels(dataset)) == set(classes)
