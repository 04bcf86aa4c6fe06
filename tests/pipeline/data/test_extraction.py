"""What the built-in tasks read out of the sources of libraries."""

import ast
import itertools
import time

import pytest

from pipeline.data.docstrings import extraction as sources
from pipeline.data.docstrings.extraction import (
    extract_first_paragraph,
    format_signature,
    read_library,
    split_name,
)

SOURCE = '''
def mk_tuple(x):
    """Make a tuple out of whatever is given.

    A second paragraph.
    """
    def helper():
        """Hidden inside of another function here."""

class BigTree:
    """A tree with more leaves than can be counted."""

    def __init__(self):
        """Make a tree from its leaves and branches."""

    async def count_leaves(self):
        """Too short."""

if True:
    try:
        def parse_args():
            """Read the options of the command line."""
    except ImportError:
        pass
'''


def test_names_become_words():
    assert split_name("mk_tuple") == ["mk", "tuple"]
    assert split_name("BertModelForX2") == ["bert", "model", "for", "x2"]
    assert split_name("HTTPServer") == ["http", "server"]
    for uninformative in ("__init__", "_call", "forward", "main", "f", "__"):
        assert split_name(uninformative) == []


def test_only_a_description_of_the_right_length_is_taken():
    assert extract_first_paragraph("Make a tuple out\n    of what is given.\n  \n    More.") == (
        "Make a tuple out of what is given."
    )
    for none in ("Too short.", "x" * 301, "mean(a, axis=None, dtype=None, out=None)",
                 ">>> print(1 + 1) # and more of this"):  # fmt: skip
        assert extract_first_paragraph(none) == ""


def test_definitions_are_read_without_import_and_unparsable_files_counted(
    tmp_path, monkeypatch, capsys
):
    package = tmp_path / "package"
    (package / "tests").mkdir(parents=True)
    (package / "a.py").write_text(SOURCE + "\nraise SystemExit\n")
    (package / "broken.py").write_text('"""doc"""\ndef (')
    (package / "tests" / "b.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "_find_root_folder", lambda library: package)

    assert [pair.name for pair in read_library("x")] == ["mk tuple", "big tree", "parse args"]
    assert capsys.readouterr().out.endswith(
        "source files of x that can't be parsed, skipped: 1 (first: broken.py)\n"
    )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def mk_tuple(seq: list[int], /, n=3, *more, last=None, **rest): ...",
         "def mk_tuple(seq, n, *more, last, **rest):"),
        ("async def wait(): ...", "async def wait():"),
        ("class Tree: ...", "class Tree:"),
        ("class Tree(Base[int], abc.ABC, metaclass=M): ...", "class Tree(Base[int], abc.ABC):"),
        (f"def f({', '.join(f'x{i}' for i in range(13))}): ...",
         f"def f({', '.join(f'x{i}' for i in range(12))}, ...):"),
    ],
)  # fmt: skip
def test_a_signature_is_one_line_of_names(source, line):
    node = ast.parse(source).body[0]

    assert format_signature(node) == line


def test_of_equal_pairs_the_first_signature_stays(tmp_path, monkeypatch):
    for file, more in (("a", "x"), ("b", "y")):
        text = SOURCE.replace("def mk_tuple(x)", f"def mk_tuple({more})")
        (tmp_path / f"{file}.py").write_text(text)
    monkeypatch.setattr(sources, "_find_root_folder", lambda library: tmp_path)

    assert list(read_library("x").values()) == [
        "def mk_tuple(x):", "class BigTree:", "def parse_args():",
    ]  # fmt: skip


def test_reading_all_libraries_says_how_far_it_is(monkeypatch, capsys):
    clock = itertools.count(0, 5)  # seconds
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sources, "read_library", lambda library: {})
    sources.read_all_libraries()

    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"[prepare] {number} of 9 libraries read" for number in range(1, 10)]
