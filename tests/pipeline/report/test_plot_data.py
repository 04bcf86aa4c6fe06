"""The numbers behind the figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helpers.architecture_matrix import drawn_plan, parts

from pipeline.report import plot_data as series


def outcome(name: str) -> Any:
    plan = drawn_plan(parts(name)[1])
    return SimpleNamespace(methods={"light": SimpleNamespace(name="light", plan=plan)}), plan


def test_a_layer_of_a_decoder_keeps_the_heads_of_both_its_attention_blocks():
    found, plan = outcome("bart")

    rows = series.kept(found)

    heads, neurons = ([len(c.kept) for c in x.values()] for x in (plan.heads, plan.neurons))
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert [row["heads"] for row in rows] == [*heads[:2], sum(heads[2:4]), sum(heads[4:])]
    assert [row["neurons"] for row in rows] == neurons


def test_layers_of_an_encoder_are_numbered_as_in_the_model():
    rows = series.kept(outcome("bert")[0])

    assert [row["layer"] for row in rows] == [0, 1]
