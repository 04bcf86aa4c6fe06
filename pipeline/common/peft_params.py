"""Section `peft` of params.yaml: the PEFT method and its settings."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.common.errors import ConfigError
from pipeline.common.section import Count, Flag, Name, Positive, Ratio, Section

# Settings that one PEFT method alone has.
_KEYS_OF_METHOD = {
    "lora": ("alpha", "rslora", "dora"),
    "bottleneck": ("placement", "non_linearity", "scaling"),
}


def _check_regex(targets: str | list[str]) -> str | list[str]:
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise ValueError(targets) from error
    return targets


class PeftSection(Section):
    """The PEFT method, before pruning.

    Attributes:
        method: `lora` (peft's `LoraConfig`) or `bottleneck` (lightpeft's `BottleneckConfig`).
        r: rank, or size of a bottleneck.
        alpha, rslora, dora: of lora; must be the default otherwise.
        placement, non_linearity, scaling: of bottleneck; likewise.
        targets: linears, or for bottleneck output projections.
    """

    method: Literal["lora", "bottleneck"] = "lora"
    r: Count = 8
    alpha: Positive = 16
    dropout: Ratio = 0.0
    rslora: Flag = False
    dora: Flag = False
    placement: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    non_linearity: Literal["relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid", "leaky_relu"] = (
        "relu"
    )
    scaling: Positive = 1.0
    targets: Annotated[
        Name | Annotated[list[Name], Field(min_length=1)],
        AfterValidator(_check_regex),
        Field(description="all-linear, a regex of full names, or a list of name suffixes"),
    ] = "all-linear"

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        for method, keys in _KEYS_OF_METHOD.items():
            for key in keys if method != self.method else ():
                value, default = getattr(self, key), type(self).model_fields[key].default
                if value != default:
                    allowed, given = (str(x).lower() for x in (default, value))
                    raise ConfigError(
                        f"peft.{key} is for peft.method: {method} and must be {allowed} for "
                        f"{self.method}, got {given}"
                    )
        return self
