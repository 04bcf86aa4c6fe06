"""JSON, YAML and digests of files; damage is one line."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.common.errors import ConfigError, DataError, PipelineError
from pipeline.common.text import join_lines


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all; NaN is refused, because no reader would take it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it names `path`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            part.unlink()


def read_json(path: Path, error: type[PipelineError] = DataError) -> Any:
    """Read a JSON object that an earlier stage wrote.

    Raises:
        error: the file is missing, cut short, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist; dvc repro makes it") from cause
    except (ValueError, OSError, RecursionError) as cause:
        raise error(f"{path} is not readable JSON ({cause}); was it cut short?") from cause
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of sections.

    Raises:
        ConfigError: the file is missing, not YAML, or holds no sections.
    """
    try:
        raw = YAML(typ="safe").load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; run from the folder that holds it") from error
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable YAML: {join_lines(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections, got {type(raw).__name__}")
    return raw


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_once(path: Path) -> str:
    """Return the sha256 of a file; an unchanged file is read once per process."""
    status = path.stat()
    return _hash_version(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_version(path: Path, modified_ns: int, size: int) -> str:
    return hash_file(path)
