"""The configs of peft's own methods, by the settings of section `baselines` of params.yaml."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from pipeline.common.errors import ConfigError
from pipeline.common.methods import FULL, find_settings, has_plan
from pipeline.common.pruning_params import Params
from pipeline.common.text import join_lines, suggest_name


def make_config(name: str, settings: dict[str, Any], **usual: Any) -> PeftConfig:
    """Return peft's config of a method.

    Args:
        name: in section `baselines`.
        settings: of that section, without `lr`.
        usual: further arguments, of which the config takes those that it has.

    Raises:
        ConfigError: it has no such argument, or refuses a value.
    """
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()]
    known = config_class.__dataclass_fields__
    if unknown := sorted(settings.keys() - known):
        prefix = f"baselines.{name}."
        hint = suggest_name(unknown[0], known, prefix=prefix)
        raise ConfigError(f"params.yaml: unknown key {prefix}{unknown[0]}; {hint}")
    taken = {key: value for key, value in usual.items() if key in known}
    try:
        return config_class(**taken | settings)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"params.yaml: baselines.{name}: {join_lines(error)}") from error


def check_baselines(params: Params) -> None:
    """Check the settings of peft's methods as far as their config classes do, without a model.

    Raises:
        ConfigError: as `make_config`.
    """
    listed = {find_settings(method) for method in params.methods if not has_plan(method)}
    for name in sorted({*listed, *params.baselines} - {FULL}):
        settings = params.baselines.get(name, {})
        make_config(name, {key: value for key, value in settings.items() if key != "lr"})
