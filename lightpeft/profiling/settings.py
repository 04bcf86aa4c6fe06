"""Settings of a measurement of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from lightpeft.core.config import Config, Count


class ProfilingSettings(Config):
    """Sizes of the batches, and how often each step is timed.

    Attributes:
        batch_sizes: rows of a batch; each size is measured by itself.
        length: tokens a row.
        warmup: rounds that are run but not counted.
        rounds: rounds that are counted.
    """

    batch_sizes: Annotated[Sequence[Count], Field(min_length=1, description="integers >= 1")]
    length: Annotated[int, Field(ge=4, description="an integer >= 4")]
    warmup: Annotated[int, Field(ge=0, description="an integer >= 0")] = 3
    rounds: Annotated[int, Field(ge=3, description="an integer >= 3")] = 15
