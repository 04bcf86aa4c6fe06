"""Image folders: what is in them, or one line that says why not."""

from pathlib import Path

import pytest
from helpers.task_files import write

from pipeline.common.errors import DataError
from pipeline.data.readers import read_rows


def test_a_folder_holds_the_files_of_each_class(tmp_path, caplog):
    (tmp_path / "bird").mkdir()
    for name in ("dog/2.png", "cat/b/1.jpg", "cat/a.txt", "cat/.hidden", ".git/x", "readme"):
        write(tmp_path, name, "x")

    assert [(Path(row["image"]).name, row["label"]) for row in read_rows(tmp_path)] == [
        ("a.txt", "cat"),
        ("1.jpg", "cat"),
        ("2.png", "dog"),
    ]
    assert "1 file beside the class folders not read" in caplog.text
    assert "folders without files are no classes: bird" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("train/cat/1", "train/dog/1", "test/cat/1", "cover"),
        ("Training/cat/1", "validation/cat/1", "other/cat/1"),
        ("train/cat/1", "train/dog/1"),
    ],
)
def test_the_folder_above_the_splits_is_refused(tmp_path, names):
    for name in names:
        write(tmp_path, name, "x")

    with pytest.raises(DataError, match=r"not classes; name each .* data\.train: .*rain(ing)?$"):
        list(read_rows(tmp_path))


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/steam/1", "train/2", "car/1"):
        write(tmp_path, name, "x")

    assert [row["label"] for row in read_rows(tmp_path)] == ["car", "train", "train"]
