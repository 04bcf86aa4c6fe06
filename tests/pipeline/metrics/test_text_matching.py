"""Texts and tags against what the official scripts say of hard cases."""

# ruff: noqa: RUF001

import random
import string
from decimal import Decimal

import pytest
from torchmetrics.functional.text import rouge_score, squad

from pipeline.common.errors import DataError
from pipeline.metrics.text_matching import (
    compute_rouge_scores,
    compute_squad_scores,
    find_bio_spans,
    find_final_number,
    is_same_number,
    is_same_text,
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
        ("الجواب ١٬٢٥٠٫٥", "1250.5"),
        ("答案是１，２５０．５", "1250.5"),
        ("उत्तर −४२", "-42"),
        ("-€5", "-5"),
        ("10 m²", "10"),
        ("no number", None),
        ("12 before and none after ####", None),
        ("", None),
    ],
)
def test_the_final_number_is_what_follows_the_mark_or_comes_last(text, number):
    assert find_final_number(text) == (None if number is None else Decimal(number))


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
    assert compute_squad_scores(answers, prediction) == pytest.approx((match, f1))


def test_entities_are_read_as_the_conll_script_reads_them():
    tags = ["I-PER", "I-PER", "B-PER", "I-LOC", "O", "B-A-B", "I-A-B"]

    assert find_bio_spans(tags) == {("PER", 0, 1), ("PER", 2, 2), ("LOC", 3, 3), ("A-B", 5, 6)}
    assert find_bio_spans([]) == set()


@pytest.mark.parametrize("tag", ["NOUN", "S-PER", ""])
def test_tags_that_are_not_bio_are_refused(tag):
    with pytest.raises(DataError, match=rf"O, B-TYPE and I-TYPE, got '{tag}'"):
        find_bio_spans(["O", tag])


TEXTS = [
    "привет большой мир",
    "今天天气很好",
    "مرحبا بالعالم",
    "आज मौसम अच्छा है",
    "καλημέρα κόσμε",
    "วันนี้อากาศดี",
    "こんにちは、スーパー",
    "안녕하세요 세계",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_any_script_equals_itself_and_no_other(text):
    assert compute_rouge_scores(text, text) == (1, 1, 1)
    assert compute_squad_scores([text], f"{text}。") == (1, 1)
    for other in {*TEXTS} - {text}:
        assert compute_rouge_scores(text, other) == (0, 0, 0)
        assert compute_squad_scores([text], other) == (0, 0)


def test_letters_beyond_ascii_and_marks_belong_to_their_word():
    assert compute_rouge_scores("Größe", "Grüße") == (0, 0, 0)
    assert compute_rouge_scores("हिन्दी", "हनद")[0] == 0
    decomposed = "Gro\u0308ße"
    assert compute_rouge_scores("Größe", decomposed)[0] == is_same_text("Größe", decomposed) == 1
    assert compute_rouge_scores("ABC １２", "ａｂｃ 12") == (1, 1, 1)


def test_a_character_is_a_word_where_words_have_no_spaces():
    assert compute_rouge_scores("北京市", "北京") == pytest.approx((0.8, 2 / 3, 0.8))
    assert compute_squad_scores(["北京市"], "北京") == pytest.approx((0, 0.8))
    assert compute_squad_scores(["在2008年"], "2008年") == pytest.approx((0, 0.8))
    assert compute_rouge_scores("ที่นี่", "ที่")[0] == pytest.approx(2 / 3)


def test_ascii_texts_score_as_the_published_scripts_do():
    draw = random.Random(0)
    characters = [*string.ascii_letters[:4], *"AB12  \n_-.,$'\"!"]
    for _ in range(60):
        label, said = ("".join(draw.choices(characters, k=draw.randint(0, 25))) for _ in range(2))
        stock = rouge_score(said, label, rouge_keys=("rouge1", "rouge2", "rougeL"))
        expected = [float(stock[f"{key}_fmeasure"]) for key in ("rouge1", "rouge2", "rougeL")]
        assert compute_rouge_scores(label, said) == tuple(expected)
        answers = {"id": "", "answers": {"text": [label], "answer_start": [0]}}
        stock = squad({"id": "", "prediction_text": said}, answers)
        found = (float(stock["exact_match"]) / 100, float(stock["f1"]) / 100)
        assert compute_squad_scores([label], said) == found
