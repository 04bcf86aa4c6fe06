"""Which columns are texts where params.yaml does not say so."""

import pytest
from helpers.task_files import read, write_jsonl

from pipeline.common.errors import DataError
from pipeline.tasks.text_columns import find_text_columns

NOTE, TITLE = [f"a note {n}" for n in range(20)], [f"the title {n}" for n in range(20)]


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"date": ["2020-01-01"], "text": NOTE}, ["text"]),
        ({"day": ["2020-01-01", "12:30 2/3"], "note": NOTE}, ["note"]),
        ({"text": NOTE, "split": ["test", "train"]}, ["text"]),
        ({"user_id": ["anna", "ben"], "note": NOTE}, ["note"]),
        ({"User ID": ["anna", "ben"], "Text": NOTE}, ["Text"]),
        ({"text": NOTE, "topic": ["sport", "art"]}, ["text"]),
        ({"note": NOTE, "topic": ["sport", "art"]}, ["note", "topic"]),
        ({"text": NOTE, "title": TITLE}, ["text", "title"]),
        ({"question": TITLE, "sentence": NOTE}, ["question", "sentence"]),
        ({"sentence": NOTE, "text": TITLE}, ["sentence", "text"]),
        ({"text": ["good", "bad"]}, ["text"]),
        ({"language": NOTE}, ["language"]),
        ({"text": NOTE, "number": ["01", "1e5"], "n": [1, 2], "empty": ["", None]}, ["text"]),
    ],
)
def test_ids_dates_and_categories_are_no_texts(columns, texts):
    rows = [{name: v[n % len(v)] for name, v in columns.items()} for n in range(20)]

    assert find_text_columns(rows) == texts


def test_text_without_labels_asks_for_its_kind_and_is_read_with_it(tmp_path):
    metadata = {"meta": [{"at": 0}] * 20, "url": ["http://example.org"] * 20}
    train = write_jsonl(tmp_path / "a.jsonl", text=NOTE, **metadata)

    with pytest.raises(DataError, match=r"'label' among text, meta, url; .*kind: text-generation"):
        read(tmp_path, train=train)
    dataset = read(tmp_path, train=train, kind="text-generation")
    assert set(dataset.splits["train"]["completion"]) < set(NOTE)
