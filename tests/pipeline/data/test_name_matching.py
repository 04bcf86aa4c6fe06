"""The built-in task: how rows are made, and that nothing but meaning gives them away."""

import random
from collections import Counter

import pytest

from pipeline.common.errors import DataError
from pipeline.data.docstrings.extraction import Pair
from pipeline.data.docstrings.name_matching import (
    DistractorPool,
    deduplicate,
    extract_word_prefixes,
    make_rows,
)
from pipeline.data.docstrings.overlap_baseline import compute_overlap_features, measure_baseline


def test_no_name_and_no_description_comes_twice():
    pairs = [
        Pair("a", "mk tuple", "Make a tuple."),
        Pair("b", "mktuple", "Another thing."),
        Pair("b", "as tuple", "Make a  TUPLE!"),
    ]
    for seed in range(5):
        kept = deduplicate(pairs, random.Random(seed))
        assert 1 <= len({pair.name.replace(" ", "") for pair in kept}) == len(kept) <= 2


def test_near_duplicates_are_one():
    pairs = [
        Pair("a", "bert model", "The bare Bert model outputting raw hidden states."),
        Pair("a", "roberta model", "The bare Roberta Model, outputting raw hidden-states."),
        Pair("a", "sum all", "Return the total of the numbers."),
        Pair("b", "adder", "Returns the totals of the number."),
    ]
    kept = deduplicate(pairs, random.Random(0))

    assert sorted(pair.name.endswith("model") for pair in kept) == [False, True]


def test_a_distractor_shares_as_many_word_prefixes_as_the_true_name(pairs):
    rows, pool = pairs[:200], DistractorPool(pairs[200:], seed=0)
    drawn = [pool.draw(pair) for pair in rows]
    library = {pair.name: pair.library for pair in pairs}
    equal = 0
    for pair, name in zip(rows, drawn, strict=True):
        text = extract_word_prefixes(pair.description)
        equal += len(extract_word_prefixes(name) & text) == len(
            extract_word_prefixes(pair.name) & text
        )
        assert library[name] == pair.library
        assert not extract_word_prefixes(pair.name) <= extract_word_prefixes(name)
        assert not extract_word_prefixes(name) <= extract_word_prefixes(pair.name)

    assert len(set(drawn)) == len(drawn)
    assert equal > 0.75 * len(rows)


def test_a_library_without_names_left_is_one_line():
    pool = DistractorPool([Pair("a", "mk tuple", "Make a tuple.")], seed=0)
    pool.draw(Pair("a", "big tree", "A big tree."))

    for library in ("a", "b"):
        with pytest.raises(DataError, match="too few documented names"):
            pool.draw(Pair(library, "old leaf", "An old leaf."))


def test_every_name_and_description_comes_once_and_rows_are_balanced(pairs):
    splits = make_rows(pairs, seed=0)
    names = [name for table in splits.values() for name in table["text"]]
    texts = [text for table in splits.values() for text in table["text_pair"]]

    assert len(set(names)) == len(names) == len(texts) == len(set(texts))
    assert len(splits["train"]["label"]) == pytest.approx(
        6 * len(splits["test"]["label"]), rel=0.05
    )
    for table in splits.values():
        counts = Counter(table["label"])
        assert counts["yes"] == counts["no"]


def test_overlap_features_tell_a_copy_from_a_stranger():
    rows = {"text": ["mk tuple", "mk tuple", "big tree", "big tree"],
            "text_pair": ["Mk a tuple.", "Count leaves.", "A big tree.", "Some other thing."],
            "label": ["yes", "no", "yes", "no"]}  # fmt: skip

    assert measure_baseline(rows, rows) == 1.0
    assert compute_overlap_features("mk tuple", "Mk a tuple.")[2] == 2


def test_the_same_seed_gives_the_same_rows(pairs):
    first, again, other = (
        make_rows(deduplicate(pairs, random.Random(seed)), seed) for seed in (0, 0, 1)
    )

    assert first == again
    assert first != other
