"""Settings of a measurement of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field

from lightpeft.core.benchmark_result import CompileScope
from lightpeft.core.config import Config, Count
from lightpeft.core.errors import ConfigError


class TrainingSettings(Config):
    """How a training step saves memory.

    Attributes:
        gradient_checkpointing: keep the inputs of the layers only, and compute the rest again in
            the backward pass.
        optimizer: `adamw_8bit` keeps the moments of weights from 4,096 values in 8 bits, by
            bitsandbytes.
        masters: dtype of the trained weights; in bfloat16 small optimizer steps are rounded away.
    """

    gradient_checkpointing: Annotated[bool, Field(description="true or false")] = False
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    masters: Literal["float32", "bfloat16"] = "float32"

    def model_post_init(self, context: object) -> None:
        """Check that the optimizer is there.

        Raises:
            ConfigError: it needs bitsandbytes, which is not installed.
        """
        if self.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
            raise ConfigError(
                "optimizer adamw_8bit needs bitsandbytes, which is not installed: "
                "pip install bitsandbytes"
            )


class ProfilingSettings(Config):
    """Sizes of the batches, and how often each step is timed.

    Attributes:
        batch_sizes: rows of a batch; each size is measured by itself.
        length: tokens a row.
        warmup: rounds that are run but not counted.
        rounds: rounds that are counted.
        training: how a training step saves memory.
        compile: what is compiled of the models for a second measurement, beside the eager one.
    """

    batch_sizes: Annotated[Sequence[Count], Field(min_length=1, description="integers >= 1")]
    length: Annotated[int, Field(ge=4, description="an integer >= 4")]
    warmup: Annotated[int, Field(ge=0, description="an integer >= 0")] = 3
    rounds: Annotated[int, Field(ge=3, description="an integer >= 3")] = 15
    training: TrainingSettings = TrainingSettings()
    compile: CompileScope = "off"
