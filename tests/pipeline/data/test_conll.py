"""Dialects of CoNLL files: what is in them, or one line that says why not."""

import pytest
from helpers.task_files import write

from pipeline.common.errors import DataError
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


SENTENCE = ["Anna\t_\tB-PER", "saw\t_\tO", "Rome\t_\tB-LOC"]


@pytest.mark.parametrize("blank", ["\t", " "])
@pytest.mark.parametrize(
    "comments",
    [
        ["# id 7d1\tdomain=en"],
        ["# sent_id = 3", "# text = Anna saw Rome"],
        ["#\thttp://example.org\t[2009-10-17]"],
        ["# a b"],
        ["#"],
        ["# newdoc", ""],
        ["#begin document (nw/x); part 000"],
        ["#end document", "", "#begin document (x)"],
    ],
)
def test_comments_in_front_of_a_sentence_are_skipped_and_counted(tmp_path, caplog, comments, blank):
    words = [line.replace("\t", blank) for line in SENTENCE]
    path = write(tmp_path, "a.conll", "\n".join([*comments, *words, ""] * 3))

    row = {"tokens": ["Anna", "saw", "Rome"], "tags": ["B-PER", "O", "B-LOC"]}
    assert list(read_rows(path)) == [row] * 3
    count = 3 * len([line for line in comments if line])
    assert caplog.messages == [f"[prepare] {path}: {count} lines of comments skipped"]


@pytest.mark.parametrize("first", ["#fail\tO", "#rome\tB-LOC", "#\tO", "#fail\tHT"])
@pytest.mark.parametrize("comment", ["", "# id = 1\n"])
def test_a_sentence_may_begin_with_a_hashtag_or_consist_of_one(tmp_path, first, comment):
    path = write(tmp_path, "a.conll", f"{comment}{first}\nso\tO\n\n{comment}{first}\n\nso\tO\n")

    word, tag = first.split("\t")
    assert list(read_rows(path)) == [
        {"tokens": [word, "so"], "tags": [tag, "O"]},
        {"tokens": [word], "tags": [tag]},
        {"tokens": ["so"], "tags": ["O"]},
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["# text = a", "1\tEU\tB-ORG", "2\tsays\tO", "", "1\tno\tO"],
        ["0 EU B-ORG", "1 says O", "", "0 no O"],
        ["1-2\tdu\t_", "1\tde\tX", "2\tle\tX", "2.1\tle\tX"],
    ],
)
def test_a_column_of_numbers_is_refused(tmp_path, lines):
    with pytest.raises(DataError, match=r"line [12]: the first column numbers the words"):
        list(read_rows(write(tmp_path, "a.conll", "\n".join(lines))))


def test_numbers_among_words_are_words(tmp_path):
    path = write(tmp_path, "a.conll", "1 O\n2 O\n\nAnna B-PER\n")

    assert [row["tokens"] for row in read_rows(path)] == [["1", "2"], ["Anna"]]


VERSES = [f"{'so ' * (n % 4)}it went on and on until day {n}" for n in range(24)]


@pytest.mark.parametrize(
    "lines",
    [
        VERSES,
        [line for pair in zip(VERSES[::2], VERSES[1::2], strict=True) for line in (*pair, "")],
        [line for verse in VERSES for line in (verse, "")],
        [f"{'spam' if n % 3 else 'ham'}\t{verse}" for n, verse in enumerate(VERSES)],
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.conll"])
def test_plain_text_is_refused(tmp_path, lines, name):
    with pytest.raises(
        DataError,
        match=r"holds plain text, but .* is read as CoNLL, a word and its tag a line; write ",
    ):
        list(read_rows(write(tmp_path, name, "\n".join(lines))))
