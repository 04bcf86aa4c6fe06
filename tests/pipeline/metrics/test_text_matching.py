"""Texts and tags against what the official scripts say of hard cases."""

from decimal import Decimal

import pytest

from pipeline.common.errors import DataError
from pipeline.metrics.text_matching import (
    bio_spans,
    final_number,
    is_same_number,
    squad_scores,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = <<3+4=7>>7 eggs.\n#### 7", "7"),
        ("#### $1,250.00.", "1250"),
        ("#### -5", "-5"),
        ("#### 8\n\nQuestion: how many are 9?", "8"),
        ("The answer is -$3.50", "-3.5"),
        ("so 12-10 leaves 10-2", "2"),
        ("it costs .5 dollars", "0.5"),
        ("72.", "72"),
        ("no number", None),
        ("12 before and none after ####", None),
        ("", None),
    ],
)
def test_the_final_number_is_what_follows_the_mark_or_comes_last(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_are_compared_by_value_and_no_number_is_never_right():
    assert is_same_number("#### 1,000", "That makes $1000.00.") == 1
    assert is_same_number("#### 10", "100") == 0
    assert is_same_number("none", "none") == 0


@pytest.mark.parametrize(
    ("answers", "prediction", "match", "f1"),
    [
        (["Denver Broncos"], "The Denver Broncos!", 1, 1),
        (["U.S."], "us", 1, 1),
        (["state-of-the-art"], "stateoftheart", 1, 1),
        (["an apple a day"], "Apple  day", 1, 1),
        (["theatre"], "atre", 0, 0),
        (["Bob", "Bob Dylan"], "Dylan", 0, 2 / 3),
        (["to be or not to be"], "to be", 0, 2 * 2 / (6 + 2)),
        (["x"], "", 0, 0),
        ([], "", 1, 1),
        ([], "something", 0, 0),
    ],
)
def test_squad_forgives_case_punctuation_articles_and_takes_the_nearest(
    answers, prediction, match, f1
):
    assert squad_scores(answers, prediction) == pytest.approx((match, f1))


def test_entities_are_read_as_the_conll_script_reads_them():
    tags = ["I-PER", "I-PER", "B-PER", "I-LOC", "O", "B-A-B", "I-A-B"]

    assert bio_spans(tags) == {("PER", 0, 1), ("PER", 2, 2), ("LOC", 3, 3), ("A-B", 5, 6)}
    assert bio_spans([]) == set()


@pytest.mark.parametrize("tag", ["NOUN", "S-PER", ""])
def test_tags_that_are_not_bio_are_refused(tag):
    with pytest.raises(DataError, match=rf"O, B-TYPE and I-TYPE, got '{tag}'"):
        bio_spans(["O", tag])
