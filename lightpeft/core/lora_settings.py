"""The settings of LoraConfig that can be pruned, and reading them from adapter_config.json."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from peft import LoraConfig, TaskType
from pydantic import BaseModel, Field, TypeAdapter

from lightpeft.core.errors import LightPeftError, ModelError
from lightpeft.core.names import CONFIG
from lightpeft.core.reading import parse_as, read_json

_Finite = Annotated[float, Field(allow_inf_nan=False, gt=-1e18, lt=1e18)]


class _Supported(BaseModel):
    """The settings that lightpeft knows; every other one must be at its default."""

    peft_type: Literal["LORA"]
    peft_version: str | None = None
    task_type: TaskType | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: Annotated[int, Field(ge=1, lt=2**31)] = 8
    lora_alpha: _Finite = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: Any = True
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None


class _InFile(_Supported):
    """What adapter_config.json may hold of its own: a pruned adapter has several ranks."""

    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, _Finite] = {}
    inference_mode: bool = False


_IN_FILE = TypeAdapter(_InFile)


def check_settings(config: LoraConfig) -> None:
    """Refuse settings that can't be pruned, such as those of DoRA and PiSSA.

    Raises:
        ModelError: names the setting.
    """
    if type(config) is not LoraConfig:
        raise ModelError(f"the PEFT method must be LoRA, got {type(config).__name__}")
    _check_values(asdict(config), set(_Supported.model_fields), ModelError)


def read_lora(folder: Path, error: type[LightPeftError]) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        error: the file is missing, damaged or not of LoRA, or a setting can't be pruned.
    """
    path = folder / CONFIG
    raw = read_json(path, error)
    if raw.get("peft_type") != "LORA":
        raise error(f"{path} must hold a LoRA config, got peft_type {raw.get('peft_type')!r}")
    _check_values(raw, set(_InFile.model_fields), error)
    parse_as(_IN_FILE, raw, path, error)
    # The values of the file: pydantic would make an integer `lora_alpha` a float.
    return LoraConfig(**{name: x for name, x in raw.items() if name in _InFile.model_fields})


def _check_values(values: dict[str, Any], known: set[str], error: type[LightPeftError]) -> None:
    """Refuse settings outside of `known` that are not at their defaults.

    Another version of peft may have settings that this one lacks; unset, they change nothing.
    """
    defaults = asdict(LoraConfig())
    for name, value in values.items():
        if name not in known and value != defaults.get(name) and (value or name in defaults):
            raise error(f"LoraConfig.{name} is not supported, got {value!r}")
    method = values.get("init_lora_weights", True)
    if not isinstance(method, bool) and method != "gaussian":
        raise error(f"LoraConfig.init_lora_weights must be true, false or gaussian, got {method!r}")
