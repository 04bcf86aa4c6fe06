"""What a measurement of speed and memory is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightpeft.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProfilingSettings:
    """Sizes of the batches, and how often each step is measured.

    Attributes:
        batch_sizes: rows; each size is measured by itself.
        length: tokens a row.
        warmup: rounds not counted.
        rounds: rounds measured.
    """

    batch_sizes: Sequence[int]
    length: int
    warmup: int = 3
    rounds: int = 15

    def __post_init__(self) -> None:
        """Refuse values that no measurement can be made of.

        Raises:
            ConfigError: names the setting, its value and what is allowed.
        """
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"batch_sizes must be integers >= 1, got {list(self.batch_sizes)}")
        for name, least in (("length", 4), ("warmup", 0), ("rounds", 3)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name} must be an integer >= {least}, got {value}")
