"""The numbers behind the figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.architecture_matrix import build_parts, draw_plan

from pipeline.report import plot_data


def results_of(name: str) -> Any:
    """Results with one method, whose plan is drawn at random, and that plan."""
    plan = draw_plan(build_parts(name)[1])
    return SimpleNamespace(methods={"light": SimpleNamespace(name="light", plan=plan)}), plan


def test_a_decoder_layer_keeps_the_heads_of_both_its_attention_blocks():
    results, plan = results_of("bart")

    rows = plot_data.count_kept_units(results)

    heads, neurons = ([len(c.kept) for c in x.values()] for x in (plan.heads, plan.neurons))
    assert rows["layer"].to_list() == [0, 1, 2, 3]
    assert rows["heads"].to_list() == [*heads[:2], sum(heads[2:4]), sum(heads[4:])]
    assert rows["neurons"].to_list() == neurons


def test_layers_of_an_encoder_are_numbered_as_in_the_model():
    rows = plot_data.count_kept_units(results_of("bert")[0])

    assert rows["layer"].to_list() == [0, 1]


@pytest.mark.parametrize(
    ("path", "number", "name"),
    [
        ("bert.encoder.layer.3.attention.self.query", 3, "attention.self.query"),
        ("albert.encoder.albert_layer_groups.0.albert_layers.1.ffn", 0, "albert_layers.1.ffn"),
        ("layer1.blocks.12.fc1", 12, "fc1"),
    ],
)
def test_a_path_is_split_at_its_first_number(path, number, name):
    assert plot_data.find_layer_number(path) == number
    assert plot_data.find_module_name(path) == name


def test_a_path_without_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"classifier\.dense lies in no numbered layer"):
        plot_data.find_layer_number("classifier.dense")
