"""The methods that params.yaml may list, and the settings of those without a pruning plan."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.common.errors import ConfigError
from pipeline.common.text import suggest_name

FULL = "full"
_PEFT = "peft:"
# Methods of peft that train on ordinary batches, by the names of its `PeftType` in lower case. Not
# p_tuning: peft saves the result of its encoder, from which no training can go on.
STOCK_PEFT = (
    *("adalora", "delora", "fourierft", "hra", "ia3", "loha", "lokr", "lora", "miss", "oft"),
    *("prefix_tuning", "prompt_tuning", "randlora", "road", "vblora", "vera"),
)
METHODS = (
    *("light", "vanilla", "random", "magnitude", "qv", "small", "freeze", FULL),
    *(f"{_PEFT}{name}" for name in STOCK_PEFT),
)
# Settings of peft's configs that the pipeline decides.
_FIXED = ("inference_mode", "peft_type", "task_type")
# What peft reads from the model for methods with virtual tokens; any other value fails in training.
_OF_THE_MODEL = ("num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules")
_VIRTUAL_TOKENS = ("prefix_tuning", "prompt_tuning")
# The others change the base model, some by chance, or need data: the saved adapter is not enough.
_INITIALIZATIONS = (True, False, "gaussian", "orthogonal")
DEFAULT_METHODS = ("light", "vanilla", "random")


def has_plan(method: str) -> bool:
    """Return whether a method is a pruning plan; any other trains something else than LoRA."""
    return method != FULL and not method.startswith(_PEFT)


def find_peft_type(method: str) -> str | None:
    """Return peft's name of the method `peft:NAME`; None for `full`."""
    return None if method == FULL else method.removeprefix(_PEFT).upper()


def find_settings(method: str) -> str:
    """Return the key of section `baselines` with the settings of a method without a plan."""
    return method.removeprefix(_PEFT)


def _check_method(method: str) -> str:
    if method not in METHODS:
        raise ValueError("unknown")
    return method


Methods = Annotated[
    list[Annotated[str, AfterValidator(_check_method)]],
    Field(min_length=1, description=f"a list of {', '.join(METHODS)}"),
]


def _check_baselines(baselines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = (FULL, *STOCK_PEFT)
    for name, settings in baselines.items():
        if name not in names:
            hint = suggest_name(name, names, prefix="baselines.")
            raise ConfigError(f"unknown key baselines.{name}; {hint}")
        lr = settings.get("lr", 1.0)
        if type(lr) not in (int, float) or not 0 < lr < math.inf:
            raise ConfigError(f"baselines.{name}.lr must be a number > 0, got {lr!r}")
        if name == FULL and (unknown := sorted(settings.keys() - {"lr"})):
            raise ConfigError(f"unknown key baselines.full.{unknown[0]}; known: lr")
        if fixed := sorted(settings.keys() & set(_FIXED)):
            raise ConfigError(f"baselines.{name}.{fixed[0]} is set by the pipeline; remove it")
        if name in _VIRTUAL_TOKENS and (known := sorted(settings.keys() & set(_OF_THE_MODEL))):
            raise ConfigError(f"baselines.{name}.{known[0]} is that of model.name; remove it")
        method = settings.get("init_lora_weights", True)
        if method not in _INITIALIZATIONS:
            raise ConfigError(
                f"baselines.{name}.init_lora_weights must be true, false, gaussian or orthogonal, "
                f"got {method!r}"
            )
    return baselines


Baselines = Annotated[
    dict[str, dict[str, Any]],
    AfterValidator(_check_baselines),
    Field(description="method -> its settings"),
]
DEFAULT_BASELINES: dict[str, dict[str, Any]] = {FULL: {"lr": 5e-5}}
