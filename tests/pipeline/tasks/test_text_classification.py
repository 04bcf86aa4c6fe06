"""Rows of one and of two texts, whichever comes first."""

import pytest
from helpers.data_cards import make_data_card
from helpers.stage_workspace import make_tokenizer
from tokenizers.processors import TemplateProcessing

from pipeline.tasks.text_classification import TextClassification, find_error

ROWS = [("w1 w2", "w3 w4"), ("w5", None), ("w6 w7 w8", None), ("w9", "w10")]


def separating_tokenizer():
    """Return a tokenizer that puts a token between two texts, and types of texts."""
    words = make_tokenizer()
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [UNK]", pair="$A [UNK] $B:1 [UNK]:1", special_tokens=[("[UNK]", 1)]
    )
    words.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return words


@pytest.mark.parametrize("make", [make_tokenizer, separating_tokenizer])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (1, 2, 1, 2), (3, 0, 3, 0)])
def test_a_row_has_a_second_text_or_not_whatever_the_first_one_has(make, order):
    task = TextClassification(make_data_card(max_length=4))

    def encode(*numbers: int) -> dict:
        texts, pairs = zip(*(ROWS[number] for number in numbers), strict=True)
        rows = {"text": [*texts], "text_pair": [*pairs], "label": ["no"] * len(texts)}
        return task.encode(rows, make())

    encoded = encode(*order)
    assert make().decode(encode(1)["input_ids"][0]).startswith("w5")
    assert encoded == {name: [encode(number)[name][0] for number in order] for name in encoded}


def test_a_row_needs_its_first_text():
    assert find_error({"text": None, "text_pair": "w1", "label": "no"}) == "empty text"
    assert find_error({"text": "w1", "text_pair": None, "label": "no"}) is None
