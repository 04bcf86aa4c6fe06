"""The table of all model types is true: a part of it always, all of it with pytest -m long."""

from __future__ import annotations

import pytest
from helpers.import_graph import ROOT
from helpers.unregistered_architectures import BY_STRUCTURE, REFUSED

from docs.model_types import format_table, list_model_types, make_row
from lightpeft.modeling.families import FAMILIES

TEXT = (ROOT / "docs" / "model_types.md").read_text(encoding="utf-8")
ROWS = {line.split(" | ")[0].removeprefix("| "): line for line in TEXT.splitlines()}


def test_table_says_what_the_tests_of_tiny_models_show():
    assert all("| structure |" in ROWS[name] for name in BY_STRUCTURE)
    assert all("| refused: pruned, it does not run" in ROWS[name] for name in REFUSED)
    listed = {name for name, row in ROWS.items() if "| registered |" in row}
    assert FAMILIES.keys() & {*list_model_types()} <= listed  # GPT-SW3 has the config of GPT-2


@pytest.mark.parametrize("name", ["bert", "gemma", "gpt_oss", "olmo2", "codegen", "resnet"])
def test_row_is_true(name: str):
    assert str(make_row(name)) == ROWS[name]


@pytest.mark.long
def test_all_rows_are_true():
    assert format_table(list_model_types()).strip() in TEXT
