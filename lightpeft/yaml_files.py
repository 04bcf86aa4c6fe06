"""YAML in, without anything heavy; damage is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lightpeft.core.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections.

    Raises:
        ConfigError: the file is missing, not YAML, or holds no sections.
    """
    try:
        raw = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; run from the folder that holds it") from None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable YAML: {reason}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections, got {type(raw).__name__}")
    return raw
