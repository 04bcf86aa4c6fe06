"""Settings of a measurement of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightpeft.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ProfilingSettings:
    """Sizes of the batches, and how often each step is timed.

    Attributes:
        batch_sizes: rows of a batch; each size is measured by itself.
        length: tokens a row.
        warmup: rounds that are run but not counted.
        rounds: rounds that are counted.
    """

    batch_sizes: Sequence[int]
    length: int
    warmup: int = 3
    rounds: int = 15

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: names the setting, its value and what is allowed.
        """
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"batch_sizes must be integers >= 1, got {list(self.batch_sizes)}")
        for name, minimum in (("length", 4), ("warmup", 0), ("rounds", 3)):
            value = getattr(self, name)
            if value < minimum:
                raise ConfigError(f"{name} must be an integer >= {minimum}, got {value}")
