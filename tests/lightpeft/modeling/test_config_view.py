"""A config as one block sees it."""

from __future__ import annotations

import copy

from helpers.architectures import ARCHITECTURES

from lightpeft.modeling.config_view import ConfigView


def test_view_of_a_config_follows_it_and_can_be_copied():
    config = ARCHITECTURES["phi3"].config()
    view = copy.deepcopy({"config": config, "view": ConfigView(config, num_attention_heads=3)})

    view["config"].sliding_window = 7

    assert (view["view"].num_attention_heads, view["view"].sliding_window) == (3, 7)
    assert view["config"].num_attention_heads == 8
