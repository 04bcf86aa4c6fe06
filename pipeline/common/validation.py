"""Parsing of params.yaml into models; a mistake is one line that names the key."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.common.errors import ConfigError
from pipeline.common.text import suggest_name

_RENAMED = {
    "prune.head_unit": "prune.head_granularity: kv_group (was group) or query_head (was head)",
    "prune.module_order": "prune.module_criterion",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")  # the second: a key that is not a string
Model = TypeVar("Model", bound=BaseModel)


def validate(kind: type[Model], raw: dict[str, Any], source: str) -> Model:
    """Parse what params.yaml holds, or would hold.

    Raises:
        ConfigError: one line that begins with the source.
    """
    try:
        return kind.model_validate(raw)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except ValidationError as error:
        # Unknown keys first: a misspelt key may also be a missing one.
        first = sorted(error.errors(), key=lambda detail: detail["type"] not in _UNKNOWN)[0]
        raise ConfigError(f"{source}: {_explain(kind, first)}") from error


def select_keys(raw: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """Return the keys that `kind` has, of its sections too."""
    selected = {key: value for key, value in raw.items() if key in kind.model_fields}
    for key, value in selected.items():
        section = find_section_class(kind, key)
        if section is not None and isinstance(value, dict):
            selected[key] = select_keys(value, section)
    return selected


def find_section_class(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the class of a field that is a section; None for a single value."""
    annotation = kind.model_fields[key].annotation if key in kind.model_fields else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _explain(kind: type[BaseModel], error: Any) -> str:
    """Turn one error of pydantic into one line."""
    location = [str(part) for part in error["loc"] if isinstance(part, int | str)]
    section, depth = kind, 0
    while depth < len(location) - 1 and (inner := find_section_class(section, location[depth])):
        section, depth = inner, depth + 1
    key, name = ".".join(location[: depth + 1]), location[depth]
    fields = section.model_fields
    if error["type"] in _UNKNOWN and key in _RENAMED:
        return f"{key} is now {_RENAMED[key]}"
    if error["type"] in _UNKNOWN:
        prefix = "".join(f"{part}." for part in location[:depth])
        return f"unknown key {key}; {suggest_name(name, fields, prefix=prefix)}"
    field = fields[name]
    choices = getattr(field.annotation, "__args__", ())
    nested = find_section_class(section, name)
    if nested is not None:
        allowed = f"a section with the keys {', '.join(nested.model_fields)}"
    else:
        allowed = field.description or f"one of {', '.join(map(str, choices))}"
    allowed = allowed.replace("None or", "none or")  # a field of the library, as YAML writes it
    return f"{key} must be {allowed}, got {error['input']!r}"
