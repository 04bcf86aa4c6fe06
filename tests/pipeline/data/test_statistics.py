"""Unknown tokens are counted in every column of token ids, and limited."""

from datasets import Dataset
from helpers.stage_workspace import make_tokenizer, make_word_tokenizer

from pipeline.data.statistics import count_unknown

UNKNOWN, GOOD = 1, 2  # of helpers.stage_workspace


def _nested(*rows: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"choice_ids": rows, "prompt_ids": [[GOOD]] * len(rows)})


def test_unknown_tokens_and_rows_of_nothing_else_are_counted():
    rows = Dataset.from_dict({"input_ids": [[0, UNKNOWN, 0], [GOOD, UNKNOWN], [GOOD], [0]]})

    assert count_unknown(rows, ("input_ids",), make_tokenizer()) == (0.5, 1)


def test_lists_of_choices_and_labels_without_a_loss_are_counted_too():
    nested = _nested([[UNKNOWN], [GOOD, UNKNOWN]], [[GOOD], []])
    labels = Dataset.from_dict({"input_ids": [[UNKNOWN]], "labels": [[-100, GOOD]]})

    assert count_unknown(nested, ("prompt_ids", "choice_ids"), make_tokenizer()) == (0.333333, 0)
    assert count_unknown(labels, ("input_ids", "labels"), make_tokenizer()) == (0.5, 0)


def test_a_tokenizer_whose_unknown_token_ends_texts_has_no_unknown_text():
    words = make_word_tokenizer(["<end>", "a"], unknown="<end>", eos_token="<end>")
    rows = Dataset.from_dict({"input_ids": [[1, 0]]})

    assert count_unknown(rows, ("input_ids",), words) == (None, None)
    assert count_unknown(rows, (), make_tokenizer()) == (None, None)
