"""What depends on the number of heads besides weights."""

from __future__ import annotations

import copy

from helpers.architectures import ARCHITECTURES

from lightpeft.modeling.head_counts import _ConfigView


def test_view_of_a_config_follows_it_and_can_be_copied():
    config = ARCHITECTURES["phi3"].config()
    view = copy.deepcopy({"config": config, "view": _ConfigView(config, 3)})

    view["config"].sliding_window = 7

    assert (view["view"].num_attention_heads, view["view"].sliding_window) == (3, 7)
    assert view["config"].num_attention_heads == 8
