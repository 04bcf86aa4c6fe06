"""Texts for people: singular and plural, the nearest of known names."""

import pytest

from pipeline.common.text import find_nearest, inflect, quantify, suggest_name


@pytest.mark.parametrize(
    ("count", "row", "batch"),
    [(0, "0 rows", "0 batches"), (1, "1 row", "1 batch"), (2000, "2,000 rows", "2,000 batches")],
)
def test_a_count_of_one_is_singular(count, row, batch):
    assert quantify(count, "row") == row
    assert quantify(count, "batch", "batches") == batch
    assert inflect(count, "is", "are") == ("is" if count == 1 else "are")


def test_the_nearest_name_is_found_whatever_its_case():
    assert find_nearest("TITEL ", ["Title", "body"]) == "Title"
    assert find_nearest("x", ["Title", "body"]) is None
    assert suggest_name("bdoy", ["title", "body"], prefix="data.") == "did you mean data.body?"
    assert suggest_name("x", ["title", "body"]) == "known: title, body"
