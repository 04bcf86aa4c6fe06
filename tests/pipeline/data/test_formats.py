"""CoNLL files and image folders: what is in them, or one line that says why not."""

from pathlib import Path

import pytest
from helpers.task_files import write

from pipeline.data.readers import read_rows


@pytest.mark.parametrize("ending", ["conll", "txt"])
@pytest.mark.parametrize("blank", [" ", "\t", " \t "])
def test_a_conll_file_holds_a_sentence_per_block(tmp_path, ending, blank):
    lines = ["-DOCSTART- -X- O O", "", "EU NNP I-NP B-ORG", "# CD O O", "", "", "1\xa0000 O "]
    path = write(tmp_path, f"a.{ending}", "\r\n".join(lines).replace(" ", blank))

    assert list(read_rows(path)) == [
        {"tokens": ["EU", "#"], "tags": ["B-ORG", "O"]},
        {"tokens": ["1\xa0000"], "tags": ["O"]},
    ]


def test_a_folder_holds_the_files_of_each_class(tmp_path):
    for name in ("dog/2.png", "cat/b/1.jpg", "cat/a.txt", "cat/.hidden", ".git/x", "readme"):
        write(tmp_path, name, "x")

    assert [(Path(row["image"]).name, row["label"]) for row in read_rows(tmp_path)] == [
        ("a.txt", "cat"),
        ("1.jpg", "cat"),
        ("2.png", "dog"),
    ]
