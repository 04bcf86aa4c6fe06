"""The multiple-choice task made from docstrings: nothing but meaning gives the answer away."""

from collections import Counter

import numpy as np
import pytest

from pipeline.data.docstrings.choice import make_choice_tables, match_distractors
from pipeline.data.docstrings.extraction import Pair
from pipeline.data.docstrings.library_and_lm import assign_splits
from pipeline.data.docstrings.name_matching import extract_word_prefixes
from pipeline.data.docstrings.overlap_baseline import measure_choice_baseline


@pytest.fixture(scope="module")
def splits(pairs) -> dict[str, list[Pair]]:
    return assign_splits(pairs)


@pytest.fixture(scope="module")
def tables(splits, signatures):
    return make_choice_tables(splits, signatures, seed=0)


def test_every_description_is_true_once_and_false_three_times(tables):
    for table in tables.values():
        rows = list(zip(table["choices"], table["label"], strict=True))
        seen = Counter(text for texts, _ in rows for text in texts)
        true = Counter(texts[label] for texts, label in rows)
        assert set(seen.values()) == {4}
        assert set(true.values()) == {1}
        assert seen.keys() == true.keys()


def test_choices_are_four_of_one_library_and_one_kind_and_side(tables, splits, signatures):
    for name, table in tables.items():
        pairs = {pair.description: pair for pair in splits[name]}
        for prompt, texts, label in zip(*table.values(), strict=True):
            four = [pairs[text] for text in texts]
            assert len(set(four)) == 4
            assert len({pair.library for pair in four}) == 1
            assert len({signatures[pair].startswith("class") for pair in four}) == 1
            assert prompt == f"{four[label].name}:"


def test_choices_share_about_as_many_stems_with_the_name_as_the_true_one(tables):
    for table in tables.values():
        for prompt, texts, label in zip(*table.values(), strict=True):
            counts = [
                len(extract_word_prefixes(prompt) & extract_word_prefixes(text)) for text in texts
            ]
            assert all(abs(count - counts[label]) <= 1 for count in counts)


def test_labels_are_uniform(tables):
    for table in tables.values():
        counts = [table["label"].count(label) for label in range(4)]
        assert max(counts) - min(counts) <= 1


def test_overlap_does_not_give_the_answer_away(tables):
    assert measure_choice_baseline(tables["train"], tables["train"]) < 0.65


def test_overlap_picks_a_copy_among_strangers():
    table = {
        "prompt": ["mk tuple:", "big tree:"],
        "choices": [["A leaf.", "Mk a tuple.", "A stem.", "A root."],
                    ["A big tree.", "A pair.", "An item.", "A thing."]],
        "label": [1, 0],
    }  # fmt: skip

    assert measure_choice_baseline(table, table) == 1.0


def test_the_same_seed_gives_the_same_questions(splits, signatures, tables):
    assert make_choice_tables(splits, signatures, seed=0) == tables
    assert make_choice_tables(splits, signatures, seed=1) != tables


def test_rows_without_three_near_others_are_dropped():
    distances = np.ones((6, 6))
    np.fill_diagonal(distances, np.inf)
    distances[5] = 9.0  # from row 5 all are far
    distractors = match_distractors(distances)

    assert set(distractors) == {0, 1, 2, 3, 4}
    for row, others in distractors.items():
        assert len(set(others) - {row, 5}) == 3


def test_too_few_rows_make_no_question():
    assert match_distractors(np.full((3, 3), np.inf)) == {}
    assert match_distractors(np.full((8, 8), np.inf)) == {}
