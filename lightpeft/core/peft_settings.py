"""The settings of PEFT methods that can be pruned, and reading them from adapter_config.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from peft import PeftConfig, TaskType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import BaseModel, Field, TypeAdapter

from lightpeft.core.adapter_layout import LAYOUTS
from lightpeft.core.bottleneck_choices import NonLinearity, Placement
from lightpeft.core.errors import LightPeftError, ModelError
from lightpeft.core.names import BOTTLENECK, CONFIG, DORA, LORA
from lightpeft.core.reading import parse_as, read_json

_Finite = Annotated[float, Field(allow_inf_nan=False, gt=-1e18, lt=1e18)]


class _Common(BaseModel):
    """The settings that lightpeft knows; every other one must be at its default."""

    peft_version: str | None = None
    task_type: TaskType | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: Annotated[int, Field(ge=1, lt=2**31)]
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None


class _Lora(_Common):
    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, lt=2**31)] = 8
    lora_alpha: _Finite = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: Any = True


class _Bottleneck(_Common):
    peft_type: Literal["LIGHTPEFT_BOTTLENECK"]
    placement: Placement = "houlsby"
    non_linearity: NonLinearity = "relu"
    scaling: _Finite = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    init_weights: bool = True
    block_inputs: dict[str, str] | None = None


# What adapter_config.json may hold of its own: a pruned adapter has several ranks.
class _LoraInFile(_Lora):
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, _Finite] = {}
    inference_mode: bool = False


class _BottleneckInFile(_Bottleneck):
    rank_pattern: dict[str, Annotated[int, Field(ge=1, lt=2**31)]] = {}
    inference_mode: bool = False


# peft_type -> the settings of a config that can be estimated, and of one that can be read.
_SUPPORTED: dict[str, type[BaseModel]] = {LORA: _Lora, BOTTLENECK: _Bottleneck}
_IN_FILE: dict[str, type[BaseModel]] = {LORA: _LoraInFile, BOTTLENECK: _BottleneckInFile}


def check_settings(config: PeftConfig) -> None:
    """Refuse settings that can't be pruned, such as those of PiSSA.

    Raises:
        ModelError: names the setting, or the method.
    """
    kind = config.peft_type
    if type(config) is not PEFT_TYPE_TO_CONFIG_MAPPING.get(kind) or kind not in _SUPPORTED:
        raise ModelError(
            f"the PEFT method must be LoRA or bottleneck adapters, got {type(config).__name__}"
        )
    _check_values(asdict(config), type(config), set(_SUPPORTED[kind].model_fields), ModelError)


def get_peft_type(config: PeftConfig) -> str:
    """Return the method as a plan has it: the type in adapter_config.json, or DORA."""
    if getattr(config, "use_dora", False):
        return DORA
    return next(name for name in LAYOUTS if name == config.peft_type)


def read_peft_config(folder: Path, error: type[LightPeftError]) -> PeftConfig:
    """Read adapter_config.json.

    Raises:
        error: the file is missing, damaged or of another method, or a setting can't be pruned.
    """
    path = folder / CONFIG
    raw = read_json(path, error)
    kind = str(raw.get("peft_type"))
    if kind not in _IN_FILE:
        raise error(
            f"{path} must be of peft_type {' or '.join(_IN_FILE)}, got {raw.get('peft_type')!r}"
        )
    config, known = PEFT_TYPE_TO_CONFIG_MAPPING[kind], _IN_FILE[kind].model_fields
    _check_values(raw, config, set(known), error)
    parse_as(TypeAdapter(_IN_FILE[kind]), raw, path, error)
    # The values of the file: pydantic would make an integer `lora_alpha` a float.
    return config(**{name: x for name, x in raw.items() if name in known})


def _check_values(
    values: dict[str, Any],
    config: type[PeftConfig],
    known: set[str],
    error: type[LightPeftError],
) -> None:
    """Refuse settings outside of `known` that are not at their defaults.

    Another version of peft may have settings that this one lacks; unset, they change nothing.
    """
    # First, because schemes that change the base model, such as CorDA, bring settings with them.
    method = values.get("init_lora_weights", True)
    if not isinstance(method, bool) and method != "gaussian":
        raise error(f"LoraConfig.init_lora_weights must be true, false or gaussian, got {method!r}")
    defaults = asdict(config())
    for name, value in values.items():
        if name not in known and value != defaults.get(name) and (value or name in defaults):
            raise error(f"{config.__name__}.{name} is not supported, got {value!r}")
