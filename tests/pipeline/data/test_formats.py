"""Image folders: what is in them, or one line that says why not."""

from pathlib import Path

from helpers.task_files import write

from pipeline.data.readers import read_rows


def test_a_folder_holds_the_files_of_each_class(tmp_path):
    for name in ("dog/2.png", "cat/b/1.jpg", "cat/a.txt", "cat/.hidden", ".git/x", "readme"):
        write(tmp_path, name, "x")

    assert [(Path(row["image"]).name, row["label"]) for row in read_rows(tmp_path)] == [
        ("a.txt", "cat"),
        ("1.jpg", "cat"),
        ("2.png", "dog"),
    ]
