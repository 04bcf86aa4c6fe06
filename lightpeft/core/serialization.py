"""JSON and safetensors in and out: written whole or not at all, and damage is one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightpeft.core.errors import LightPeftError


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN is refused, because no other reader would take it."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    part = _part(path)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_json(path: Path, error: type[LightPeftError]) -> Any:
    """Read a JSON object.

    Raises:
        error: the file is missing, cut short, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (ValueError, OSError, RecursionError) as cause:
        raise error(f"{path} is not readable JSON ({cause}); was it cut short?") from None
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def check_format(
    path: Path, value: dict[str, Any], expected: str, error: type[LightPeftError]
) -> None:
    """Refuse a JSON object of another format, or of another version of this one.

    Args:
        path: of the file, for the message.
        value: what it holds.
        expected: the format that is read, as `lightpeft-plan-3`.

    Raises:
        error: the value's `format` is another.
    """
    found = value.get("format")
    if found == expected:
        return
    if str(found).startswith(expected.rpartition("-")[0]):
        raise error(
            f"{path} is {found}, made by another version of lightpeft, which now writes "
            f"{expected}; run the stages estimate and prune again"
        )
    raise error(f"{path} is of format {found!r}, not {expected!r}")


def write_tensors(path: Path, tensors: dict[str, Tensor], *, plan: str | None = None) -> None:
    """Write safetensors; of metadata only `plan`, since the format fixes no order for more."""
    part = _part(path)
    metadata = None if plan is None else {"plan": plan}
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, part, metadata)
    part.replace(path)


def read_tensors(path: Path, error: type[LightPeftError]) -> dict[str, Tensor]:
    """Read safetensors onto the CPU.

    Raises:
        error: the file is missing, cut short, or not safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except FileNotFoundError:
        raise error(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError) as cause:
        raise error(f"{path} is not readable safetensors ({cause}); was it cut short?") from None


def read_plan_digest(path: Path) -> str | None:
    """The `plan` that safetensors were written with; the file must be readable."""
    with safetensors.safe_open(path, framework="pt") as file:
        found: str | None = (file.metadata() or {}).get("plan")
        return found


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """A folder to write into that takes the place of `out`'s files once all of it is written.

    Whatever fails inside leaves `out` as it was. Other files in `out` stay.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as part:
        made = Path(part) / "made"
        made.mkdir()
        yield made
        if out.exists():
            for file in made.iterdir():
                file.replace(out / file.name)
        else:
            shutil.move(made, out)


def _part(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")
