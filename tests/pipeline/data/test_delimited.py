"""Separators, quotes and headers of CSV and TSV, as other programs write them."""

import csv

import pandas as pd
import pytest
from helpers.task_files import write

from pipeline.common.errors import DataError
from pipeline.common.text import quantify
from pipeline.data.readers import read_rows

TABLE = {"text": ['say "hi"', "plain", "two words"], "label": ["a", "b", "a"]}
ROWS = pd.DataFrame(TABLE).to_dict("records")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "A.CSV", "a.Tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_separators_and_quotes_of_pandas_are_read(tmp_path, caplog, name, separator, quoting):
    frame = pd.DataFrame(TABLE)
    frame.to_csv(tmp_path / name, sep=separator, quoting=quoting, index=False)

    assert list(read_rows(tmp_path / name)) == ROWS
    usual = {"csv": ",", "tsv": "\t"}[name[-3:].lower()]
    assert ("is separated by" in caplog.text) == (separator != usual)
    assert ("without the quotes around them" in caplog.text) == (separator == "\t")


def test_tabs_and_line_breaks_in_quotes_are_part_of_a_tsv_field(tmp_path):
    texts = ["one\ttwo", "one\ntwo", "plain"]
    pd.DataFrame({"text": texts, "label": 1}).to_csv(tmp_path / "a.tsv", sep="\t", index=False)

    assert [row["text"] for row in read_rows(tmp_path / "a.tsv")] == texts


@pytest.mark.parametrize(
    "texts",
    [
        ['"Open', "closed", 'later"'],
        ['"Open', '" closed', "plain"],
        ['"Quoted" and more', "plain", '"All of it"'],
        ['"All of it"', "plain", "plain"],
        ['"escaped \\"quotes\\" of R"', '"plain"', '"plain"'],
        ['a 5" nail', '"twice ""quoted"""', "plain"],
    ],
)
def test_quotes_that_belong_to_the_text_of_a_tsv_join_no_lines(tmp_path, caplog, texts):
    lines = ["text\tlabel", *(f"{text}\t1" for text in texts)]
    path = write(tmp_path, "a.tsv", "\n".join(lines))

    assert [row["text"] for row in read_rows(path)] == texts
    count = sum(text[0] == text[-1] == '"' for text in texts)
    assert (f"also those around {quantify(count, 'field')}\n" in caplog.text) == bool(count)


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_quotes_that_r_escapes_by_a_backslash_are_read(tmp_path, caplog, name, separator):
    texts = ['say "hi" in C:\\new', 'ends in "one"', f"a{separator}b\nc", "plain", '"', '""']
    cells = [text.replace('"', '\\"') for text in ("text", *texts)]
    path = write(tmp_path, name, "\n".join(f'"{cell}"{separator}"x"' for cell in cells))

    assert [row["text"] for row in read_rows(path)] == texts
    assert caplog.messages == [f'[prepare] {path}: \\" is read as a quote']


def test_backslashes_in_front_of_doubled_quotes_are_text(tmp_path, caplog):
    texts = ['{"a": "say \\"hi\\""}', "C:\\", "plain"]
    pd.DataFrame({"text": texts, "label": 1}).to_csv(tmp_path / "a.csv", index=False)

    assert [row["text"] for row in read_rows(tmp_path / "a.csv")] == texts
    assert "a.csv: backslashes in front of quotes are part of the text" in caplog.text


def test_quotes_that_fit_neither_way_are_an_error(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"say \\"hi\\"",1\n"C:\\",1\n"b",2\n')
    with pytest.raises(DataError, match=r"a\.csv line 2: ',' expected after '\"'"):
        list(read_rows(path))


def test_columns_without_a_name_get_their_number(tmp_path):
    path = write(tmp_path, "a.csv", ",text,label,,\n0,a,x,,\n")

    row = {"column 1": "0", "text": "a", "label": "x", "column 4": "", "column 5": ""}
    assert list(read_rows(path)) == [row]


def test_a_byte_order_mark_hides_no_quotes(tmp_path):
    path = write(tmp_path, "a.csv", b'\xef\xbb\xbf"text";"label"\r\n"a, b";"1"\r\n')

    assert list(read_rows(path)) == [{"text": "a, b", "label": "1"}]
