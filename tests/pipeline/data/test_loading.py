"""From files to labelled splits."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.task_files import list_labels, read, write_jsonl

from pipeline.common.data_card import DataOrigin, DroppedRows
from pipeline.common.errors import ConfigError, DataError
from pipeline.data import readers
from pipeline.data.loading import LoadedDataset


def task(folder: Path, *, labels: list[Any], **changes: Any) -> LoadedDataset:
    """A task of one file with as many texts as labels."""
    texts = [f"text {row}" for row in range(len(labels))]
    train = write_jsonl(folder / "train.jsonl", text=texts, label=labels)
    return read(folder, **({"train": train} | changes))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["pos", "neg"] * 20, ["neg", "pos"]),
        ([10, 9] * 20, ["9", "10"]),
        (["10", "9"] * 20, ["9", "10"]),
        ([True, False] * 20, ["False", "True"]),
        (["1", "2", "n.a."] * 10, ["1", "2", "n.a."]),
        (["01", " 1", "+1", "1_2", "12", "\u0661"] * 7, ["+1", "01", "1", "12", "1_2", "\u0661"]),
    ],
)
def test_strings_and_whole_numbers_are_classes_in_order(tmp_path, labels, classes):
    dataset = task(tmp_path, labels=labels)

    assert dataset.classes == classes
    counts = Counter(label.strip() for label in list_labels(dataset))
    assert counts == {name: labels.count(labels[0]) for name in classes}


@pytest.mark.parametrize("labels", [[0.5, 1.0, 4] * 10, ["0.5", "1", "4e0"] * 10])
def test_decimals_are_a_regression(tmp_path, labels):
    dataset = task(tmp_path, labels=labels)

    assert dataset.classes == []
    assert {float(label) for label in list_labels(dataset)} == {0.5, 1.0, 4.0}


@pytest.mark.parametrize("labels", [["0.0", "1.0"] * 10, [0.0, 1.0] * 10])
def test_whole_decimals_are_classes_where_the_metric_is_one_of_classes(tmp_path, caplog, labels):
    assert task(tmp_path, labels=labels).classes == []
    assert "labels such as 0.0, 1.0: a regression; data.metric: accuracy" in caplog.text
    assert task(tmp_path, labels=labels, metric="accuracy").classes == ["0", "1"]


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_whole_numbers_are_scores_where_the_metric_is_one_of_scores(tmp_path, metric):
    labels = [*range(39), "high"]
    dataset = task(tmp_path, labels=labels, metric=metric, max_bad_rows=0.1)

    assert dataset.classes == []
    assert {float(label) for label in list_labels(dataset)} == set(range(39))
    assert dataset.dropped == {
        "train: label that is no number": DroppedRows(rows=1, first=40, name="'high'")
    }


def test_many_whole_numbers_ask_for_a_metric_of_scores(tmp_path):
    with pytest.raises(DataError, match=r"label column\?; data\.metric: pearson takes them as sc"):
        task(tmp_path, labels=[*range(40)])


def test_missing_splits_are_seeded_tenths_by_class(tmp_path):
    labels = ["a"] * 80 + ["b"] * 20
    first, again = (task(tmp_path, labels=labels).splits for _ in range(2))

    assert {k: rows.to_dict() for k, rows in first.items()} == {
        k: rows.to_dict() for k, rows in again.items()
    }
    for split in ("validation", "test"):
        assert Counter(first[split]["label"]) == {"a": 8, "b": 2}
    texts = [text for table in first.values() for text in table["text"]]
    assert len(texts) == len(set(texts)) == 100


def test_validation_becomes_test_where_there_is_no_test(tmp_path):
    held_out = write_jsonl(tmp_path / "v.jsonl", text=["held", "out"], label=["a", "b"])
    dataset = task(tmp_path, labels=["a", "b"] * 20, validation=held_out)

    assert dataset.splits["test"]["text"][:] == ["held", "out"]
    assert len(dataset.splits["validation"]["text"]) == 4
    digest = hashlib.sha256(Path(held_out).read_bytes()).hexdigest()
    assert dataset.origins["test"] == DataOrigin(source=held_out, sha256=digest)
    assert dataset.origins["validation"] == DataOrigin(source="4 seeded rows of train")


def test_given_splits_are_kept_as_they_are(tmp_path):
    paths = {
        split: write_jsonl(tmp_path / f"{split}.jsonl", text=[split, "x"], label=[1, 0])
        for split in ("train", "validation", "test")
    }
    dataset = read(tmp_path, **paths)

    assert {split: table["text"][0] for split, table in dataset.splits.items()} == {
        split: split for split in paths
    }


def bad_rows(folder: Path) -> str:
    """40 good rows and 6 bad ones."""
    texts = [*(f"text {row}" for row in range(40)), " ", None, "x", "y", "z", 3]
    labels = [*["a", "b"] * 20, "a", "b", None, "", float("nan"), "a"]
    return write_jsonl(folder / "train.jsonl", text=texts, label=labels)


def test_bad_rows_are_dropped_counted_and_named(tmp_path):
    dataset = read(tmp_path, train=bad_rows(tmp_path), text="text", max_bad_rows=0.2)

    assert dataset.dropped == {
        "train: empty text": DroppedRows(rows=2, first=41),
        "train: no label": DroppedRows(rows=3, first=43),
        "train: text of another type": DroppedRows(rows=1, first=46),
    }
    assert len(list_labels(dataset)) == 40


def test_more_bad_rows_than_allowed_stop_with_their_reasons(tmp_path):
    message = r"6 of 46 rows of train are bad, more than data\.max_bad_rows 0\.1 allows: 2 x empty "
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, train=bad_rows(tmp_path), text="text", max_bad_rows=0.1)

    assert "3 x no label (first: row 43)" in str(caught.value)


def test_auto_finds_a_pair_beside_numbers(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{row},left {row},right {row},{row % 2}" for row in range(40)]
    path.write_text("\n".join(["id,one,two,label", *rows]))
    train = read(tmp_path, train=str(path)).splits["train"]

    assert train["text"][0].startswith("left")
    assert train["text_pair"][0].startswith("right")


def test_one_number_among_texts_is_a_bad_row_and_the_column_one_of_text(tmp_path):
    texts = [*(f"text {i}" for i in range(39)), 3]
    train = write_jsonl(tmp_path / "a.jsonl", n=[*range(39), "x"], text=texts, label=[0, 1] * 20)

    assert read(tmp_path, train=train, max_bad_rows=0.1).dropped == {
        "train: text of another type": DroppedRows(rows=1, first=40)
    }


def test_columns_can_be_named(tmp_path):
    train = write_jsonl(
        tmp_path / "a.jsonl",
        a=[f"x {i}" for i in range(20)],
        b=["y"] * 20,
        gold=[0, 1] * 10,
        c=["z"] * 20,
    )
    columns = {"train": train, "text": ["b", "a"], "label": "gold"}
    dataset = read(tmp_path, **columns)

    test = dataset.splits["test"]
    assert (test["text"][0], test["text_pair"][0][:2]) == ("y", "x ")


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        (["a"] * 20, {}, "column of train has one class only"),
        (
            [0, 1] * 10,
            {"label": "lable"},
            r"data\.label: train has no column 'lable' among text, l",
        ),
        ([0, 1] * 10, {"label": "lable"}, "did you mean 'label'"),
        (
            [0, 1] * 10,
            {"text": "txt"},
            r"data\.text: train has no column 'txt'.*did you mean 'text'",
        ),
        ([0, 1] * 10, {"text": "label"}, "data.text and data.label must differ"),
        ([0.5] * 19 + ["high"], {}, "labels of train are decimals, except 'high'"),
        ([f"name {i}" for i in range(20)], {}, "20 different labels in 20 rows"),
        (
            [["a"], ["b"]] * 10,
            {"kind": "text-classification"},
            r"\['a'\] is neither text nor a number",
        ),
        ([None] * 5, {}, "train has no usable row: 5 x no label"),
        ([0, 1], {}, "train has 2 rows, too few to sample test and validation from"),
        ([0, 1, 0], {}, "train has 3 rows, too few to sample test and validation from"),
        ([0, 1], {"task": "docstring"}, "did you mean docstrings"),
    ],
)
def test_a_wrong_task_is_one_line(tmp_path, labels, changes, message):
    settings = changes | ({"train": "auto"} if "task" in changes else {})
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        task(tmp_path, labels=labels, **settings)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a", "b"] * 5, "c", r"1 x label that train does not have \(first: row 1, 'c'\)"),
        ([0.5, 1.5] * 5, "c", r"1 x label that is no number \(first: row 1, 'c'\)"),
    ],
)
def test_a_label_unseen_in_train_is_refused(tmp_path, train, test, message):
    path = write_jsonl(tmp_path / "test.jsonl", text=["x"], label=[test])

    with pytest.raises(DataError, match=message):
        task(tmp_path, labels=train, test=path)


def unseen(folder: Path, **changes: Any) -> LoadedDataset:
    """Of 13 test rows, number 2 has no label, and 3 and 6 one that train has not."""
    labels = ["a", None, "c", "b", "a", "d", *["b"] * 7]
    path = write_jsonl(folder / "test.jsonl", text=[f"t{i}" for i in range(13)], label=labels)
    return task(folder, labels=["a", "b"] * 10, test=path, **changes)


def test_a_few_labels_unseen_in_train_are_bad_rows(tmp_path):
    dataset = unseen(tmp_path, max_bad_rows=0.25)

    assert dataset.dropped == {
        "test: no label": DroppedRows(rows=1, first=2),
        "test: label that train does not have": DroppedRows(rows=2, first=3, name="'c'"),
    }
    assert dataset.splits["test"]["text"][:] == ["t0", "t3", "t4", *(f"t{i}" for i in range(6, 13))]
    assert dataset.classes == ["a", "b"]


def test_more_labels_unseen_in_train_than_bad_rows_allowed_stop(tmp_path):
    message = "3 of 13 rows of test are bad, more than data.max_bad_rows 0.2 allows: 1 x no label"
    with pytest.raises(DataError, match=message) as caught:
        unseen(tmp_path, max_bad_rows=0.2)

    assert str(caught.value).endswith("2 x label that train does not have (first: row 3, 'c')")


def test_a_split_without_a_column_of_train_is_told(tmp_path):
    path = write_jsonl(tmp_path / "test.jsonl", sentence=["x", "y"], label=["a", "b"])
    message = "test has no usable row: 2 x empty text .*; train's column text is not among sentenc"

    with pytest.raises(DataError, match=message):
        task(tmp_path, labels=["a", "b"] * 10, test=path)


def test_too_many_text_columns_are_listed(tmp_path):
    columns = {name: ["x y"] * 4 for name in ("a", "b", "c")}
    train = write_jsonl(tmp_path / "a.jsonl", **columns, label=[0, 1] * 2)

    with pytest.raises(DataError, match=r"found a, b, c; name them in data\.text"):
        read(tmp_path, train=train)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("arc-eesy", "did you mean arc-easy"),
        ("someone/else", "data.train is for data.task: files or a named task, got someone/else"),
    ],
)
def test_a_task_that_does_not_fit_is_one_line(tmp_path, task, message):
    train = write_jsonl(tmp_path / "a.jsonl", text=["x"], label=[0])
    with pytest.raises((ConfigError, DataError), match=message):
        read(tmp_path, task=task, train=train)


def test_a_file_is_read_once_and_a_wrong_path_is_found_before_a_long_file_is_read(
    tmp_path, monkeypatch
):
    read_paths, read_csv = [], readers._READERS[".csv"]
    monkeypatch.setitem(
        readers._READERS, ".csv", lambda path: read_paths.append(path) or read_csv(path)
    )
    train, test = (tmp_path / f"{name}.csv" for name in ("train", "test"))
    for path in (train, test):
        path.write_text("\n".join(["text,label", *(f"text {i},{i % 2}" for i in range(3000))]))
    read(tmp_path, train=str(train), test=str(test))

    assert read_paths == [train, test]
    read_paths.clear()
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read(tmp_path, train=str(train), test=str(tmp_path / "none.csv"))
    assert read_paths == []
