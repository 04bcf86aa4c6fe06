"""A model's config as one block is to see it."""

from __future__ import annotations

from typing import Any


def unwrap_config(config: Any) -> Any:
    """Return the model's config of a view; anything else as it is."""
    while isinstance(config, ConfigView):
        config = vars(config)["_config"]
    return config


class ConfigView:
    """The model's config with other values of some settings; all blocks of a model have one config.

    Example:
        >>> attention.config = ConfigView(attention.config, num_attention_heads=2)
    """

    def __init__(self, config: Any, **settings: Any) -> None:
        self.__dict__.update(_config=config, **settings)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)
