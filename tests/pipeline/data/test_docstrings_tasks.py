"""The library and generation tasks made from docstrings, and the sides that all tasks share."""

from pipeline.data.docstrings.extraction import Pair
from pipeline.data.docstrings.library_and_lm import (
    assign_splits,
    make_library_tables,
    make_lm_tables,
    measure_library_baseline,
)
from pipeline.data.docstrings.name_matching import make_rows, split_sizes


def test_each_pair_is_on_one_side_the_same_one_in_every_task(pairs, signatures):
    splits = assign_splits(pairs)
    rows = make_rows(pairs, seed=0)

    assert sorted(pair for side in splits.values() for pair in side) == sorted(pairs)
    for name, table in make_lm_tables(splits, signatures).items():
        assert table["completion"] == rows[name]["text_pair"]


def test_a_row_to_write_is_a_signature_and_its_description(pairs, signatures):
    table = make_lm_tables(assign_splits(pairs), signatures)["train"]
    for row, pair in enumerate(pairs[:50]):
        assert table["prompt"][row] == f'{signatures[pair]}\n    """'
        assert table["completion"][row] == pair.description


def test_no_description_names_a_library():
    names = ["PyTorch", "NumPy", "scikit-learn", "sklearn", "np.", "Python", "transformers"]
    naming = [Pair("a", f"n{i}", f"Text {i} of {name} things.") for i, name in enumerate(names)]
    fine = [Pair(f"lib{i % 40}", f"m{i}", f"Plain Pandora text {i}.") for i in range(400)]
    mixed = [pair for both in zip(fine, naming * 60, strict=False) for pair in both]

    tables = make_library_tables(assign_splits(mixed))

    texts = [text for table in tables.values() for text in table["text"]]
    assert len(texts) > 100
    assert not [text for text in texts if "Plain" not in text]


def test_no_library_is_more_than_a_sixth_of_the_rows_asked_for(pairs):
    sizes = split_sizes(len(pairs))
    for name, table in make_library_tables(assign_splits(pairs)).items():
        counts = [table["label"].count(library) for library in ("networkx", "numpy")]
        assert counts == [sizes[name] // 6] * 2


def test_words_tell_two_libraries_apart(pairs):
    tables = make_library_tables(assign_splits(pairs))

    assert measure_library_baseline(tables["train"], tables["test"]) > 0.7
