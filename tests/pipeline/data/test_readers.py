"""Reading local files: what is in them, or one line that says what is wrong."""

import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.task_files import write

from pipeline.common.errors import DataError
from pipeline.data import readers
from pipeline.data.readers import read_rows, read_table_rows

TABLE = {"text": ['say "hi", now', "NA", "ünï"], "label": ["1", "0", "null"]}


def test_all_formats_hold_the_same_rows(tmp_path):
    frame = pd.DataFrame(TABLE)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "rows.parquet")
    lines = ["text\tlabel", *(f"{a}\t{b}" for a, b in zip(*TABLE.values(), strict=True))]
    write(tmp_path, "rows.tsv", "\n".join(lines))

    for ending in ("csv", "tsv", "jsonl", "parquet"):
        rows = read_rows(tmp_path / f"rows.{ending}")
        assert list(rows) == list(read_table_rows(TABLE)), ending


def test_a_csv_of_excel_loses_its_byte_order_mark(tmp_path):
    path = write(tmp_path, "a.csv", b'\xef\xbb\xbftext,label\r\n"two\r\nlines",1\r\n')

    assert list(read_rows(path)) == [{"text": "two\r\nlines", "label": "1"}]


def test_a_long_document_fits_in_a_csv(tmp_path):
    path = write(tmp_path, "a.csv", f"text,label\n{'x' * 200_000},1\n")

    assert len(next(read_rows(path))["text"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", "x", r"must end in one of \.csv, \.tsv"),
        ("a.csv", "", r"a\.csv is empty$"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "text,label\na,1\nb\n", "line 3 has 1 field, the header has 2"),
        ("a.csv", 'text,label\na,1\n"b,2\n', "line 3 opens a quote that is never closed$"),
        (
            "a.csv",
            'text,label\n"a,1\nb,2\n"c",3\n',
            r"line 2 \(quoted up to line 4\): ',' expected",
        ),
        ("a.csv", 'text,label\n"a,1\nb"\n', r"line 2 \(quoted up to line 3\) has 1 field,"),
        ("a.csv", "text,text\na,1\n", "names a column twice: text"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "is not UTF-8"),
        ("a.tsv", "text\ttext\na\t1\n", "names a column twice: text"),
        ("a.tsv", "text\tlabel\na\t1\t2\n", "line 2 has 3 fields"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", '["a"]\n', "line 1 is not a JSON object but a list"),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": 1, "text": 2}',
            "line 2 can't be read: .*'text' twice",
        ),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.jsonl", '{"a": 1}\n{"a": %s}' % ("1" * 5000), "line 2 can't be read: Exceeds"),
        ("a.jsonl", '{"a": %s' % ("[" * 100_000), "line 1 can't be read: maximum recursion depth"),
        (
            "a.json",
            '{"data": [{"paragraphs": [], "version": %s}]}' % ("1" * 5000),
            r"a\.json line 1 can't be read: Exceeds the limit",
        ),
        ("a.parquet", "PAR1 but not really", "is not Parquet"),
        ("a.conll", "EU B-ORG\nrejects\n", "line 2 has a word without a tag: 'rejects'"),
        ("a.conll", "\n-DOCSTART- O\n\n", "has no rows"),
        ("a.json", '{"data": [{"paragraphs": [', "line 1 is not JSON"),
        (
            "a.json",
            '{"data": [{"paragraphs": [{"context": ""}]}]}',
            "SQuAD's structure: KeyError.'qas'",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(write(tmp_path, name, content)))

    assert "\n" not in str(caught.value)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(DataError, match="names a column twice: text"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        next(read_rows(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="is a folder"):
        next(read_rows(tmp_path / "folder.csv"))


@pytest.mark.parametrize(
    ("kind", "number"),
    [(pa.timestamp("us"), 2**62), (pa.duration("s"), 2**62), (pa.date32(), 2**30)],
)
def test_a_value_of_parquet_that_python_cannot_hold_is_named_by_row_and_column(
    tmp_path, monkeypatch, kind, number
):
    monkeypatch.setattr(readers, "_CHUNK", 2)
    when = pa.array([0, 0, number], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    pq.write_table(pa.table({"text": ["a", "b", "c"], "when": when}), tmp_path / "far.parquet")

    line = rf"far\.parquet row 3, column when of type {re.escape(str(kind))} can't be read: "
    with pytest.raises(DataError, match=line):
        list(read_rows(tmp_path / "far.parquet"))


def test_a_time_zone_that_is_not_known_is_named(tmp_path):
    when = pa.array([0], pa.timestamp("us", tz="Nowhere/City"))
    pq.write_table(pa.table({"text": ["a"], "when": when}), tmp_path / "zone.parquet")

    line = r"column when of type timestamp\[us, tz=Nowhere/City\] can't be read: .*[^.]; drop the"
    with pytest.raises(DataError, match=line):
        list(read_rows(tmp_path / "zone.parquet"))
