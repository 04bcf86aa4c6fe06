"""The data card is one typed object, written and read in one place."""

import json
from pathlib import Path

import pytest
from helpers.data_cards import make_data_card
from pydantic import ValidationError

from pipeline.common.data_card import DataCard
from pipeline.common.errors import DataError


def test_a_card_is_read_as_it_was_written(tmp_path):
    card = make_data_card(
        sources={"train": {"from": "a.csv", "sha256": "00"}, "torch": "2.13.0"},
        dropped={"train: no label": {"rows": 2, "first": 7, "name": "a.csv"}},
        baseline={"name": "majority", "accuracy": 0.5},
    )
    card.write(tmp_path)

    assert DataCard.read(tmp_path) == card
    written = json.loads((tmp_path / "card.json").read_text())
    assert written["sources"]["train"] == {"from": "a.csv", "sha256": "00"}
    assert "neutral_prompt" not in written


def test_a_card_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make_data_card().kind = "text-regression"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": "long"}, "has a bad value of max_length .*'long'"),
        ({"labls": []}, "has a bad value of labls"),
        ({"splits": {"train": {"rows": 3}}}, r"lacks splits\.train\.mean_tokens"),
    ],
)
def test_a_damaged_card_is_one_line(tmp_path: Path, change, message):
    make_data_card().write(tmp_path)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(DataError, match=rf"^\S+card\.json {message}[^\n]*run the stage prepare"):
        DataCard.read(tmp_path)
