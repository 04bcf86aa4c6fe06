"""Values of params.yaml and what its sections have in common: frozen, typed, nothing converted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

AUTO = "auto"
NONE = "none"


def parse_auto(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Read `auto` as None, and refuse the None of a blank value."""
    if value is None:
        raise ValueError("blank")
    return None if value == AUTO else validate(value)


def parse_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Read `none` as None, and refuse the None of a blank value."""
    if value is None:
        raise ValueError("blank")
    return None if value == NONE else validate(value)


# A description says which values are allowed, as errors do: "peft.r must be an integer >= 1".
Count = Annotated[int, Field(ge=1, description="an integer >= 1")]
NonNegativeInt = Annotated[int, Field(ge=0, description="an integer >= 0")]
Ratio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, description="in [0, 1)")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="in [0, 1]")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number > 0")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number >= 0")]
Flag = Annotated[bool, Field(description="true or false")]
Name = Annotated[str, Field(min_length=1, description="a name")]
CompileScope = Literal["off", "blocks", "whole"]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="an integer from 0 to 2147483647")]
AutoRatio = Annotated[
    Ratio | None, WrapValidator(parse_auto), Field(description="auto or in [0, 1)")
]
AutoPositive = Annotated[
    Positive | None, WrapValidator(parse_auto), Field(description="auto or a number > 0")
]
AutoCount = Annotated[
    NonNegativeInt | None, WrapValidator(parse_auto), Field(description="auto or an integer >= 0")
]
AutoClass = Annotated[
    Annotated[Name, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
    | None,
    WrapValidator(parse_auto),
    Field(description="auto or a class"),
]
AutoName = Annotated[Name | None, WrapValidator(parse_auto), Field(description="auto or a name")]


class Section(BaseModel):
    """A section of params.yaml: frozen, without further keys, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
