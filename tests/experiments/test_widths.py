"""The measurement of widths: which are measured, and how they are summarized."""

import json

import pytest

from experiments.widths import POWERS, list_widths, main, summarize


@pytest.mark.parametrize("power", POWERS)
def test_widths_have_their_power_of_two_and_are_near(power):
    widths = list_widths(power, near=1024, count=4)

    assert len({*widths}) == 4
    assert all(width & -width == power and abs(width - 1024) <= 4 * power for width in widths)


def test_time_is_per_column_and_relative_to_the_best_power():
    assert summarize({3: 6.0, 5: 10.0, 8: 8.0}) == {1: 2.0, 8: 1.0}


def test_a_record_has_the_time_of_every_width(tmp_path, capsys):
    main(near=128, hidden=8, tokens=2, count=1, out=tmp_path / "widths.json")

    record = json.loads((tmp_path / "widths.json").read_text())
    assert len(record["seconds"]) == len(POWERS)
    assert min(record["relative_time_per_column"].values()) == 1
    assert capsys.readouterr().out.count("\n") == 2 + len(POWERS)
