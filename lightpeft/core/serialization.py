"""Read and write JSON and safetensors: written completely or not at all, damage is one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightpeft.core.command_line import os_error_number
from lightpeft.core.errors import LightPeftError

REMEDY = "run the stages estimate and prune again"


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN is refused, since it is not standard JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
        raise error(f"{path} is not readable JSON ({cause}); was it cut short?") from cause
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def check_format(
    path: Path,
    value: dict[str, Any],
    expected: str,
    error: type[LightPeftError],
    *,
    remedy: str = REMEDY,
) -> None:
    """Refuse a JSON object of another format, or of another version of this one.

    Args:
        path: of the file, for the message.
        value: what it holds.
        expected: the format that is read, as `lightpeft-plan-3`.
        error: to raise.
        remedy: what to do about another version, for the message.

    Raises:
        error: the value's `format` is another.
    """
    actual = value.get("format")
    if actual == expected:
        return
    if str(actual).startswith(expected.rpartition("-")[0]):
        raise error(
            f"{path} is {actual}, made by another version of lightpeft, which now writes "
            f"{expected}; {remedy}"
        )
    raise error(f"{path} is of format {actual!r}, not {expected!r}")


def write_tensors(path: Path, tensors: dict[str, Tensor], *, plan: str | None = None) -> None:
    """Write safetensors, with the plan's digest as the only metadata.

    The format fixes no order of metadata: with more, equal tensors would not be equal files.
    """
    metadata = None if plan is None else {"plan": plan}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replaced(path) as temporary:
        save_file(contiguous, temporary, metadata)


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
        raise error(f"{path} is not readable safetensors ({cause}); was it cut short?") from cause


def read_plan_digest(path: Path) -> str | None:
    """Return the `plan` that safetensors were written with; the file must be readable."""
    with safetensors.safe_open(path, framework="pt") as file:
        digest: str | None = (file.metadata() or {}).get("plan")
        return digest


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file that replaces `path` once it is written completely.

    If anything fails inside, the temporary file is removed and `path` is left as it was.

    Raises:
        OSError: it names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        _raise_with_path(error, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield a folder whose files replace those of `out` once all of them are written.

    If anything fails inside, `out` is left as it was. Other files in `out` are kept.

    Raises:
        OSError: it names `out`.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as parent:
            folder = Path(parent) / "files"
            folder.mkdir()
            yield folder
            if out.exists():
                for file in folder.iterdir():
                    file.replace(out / file.name)
            else:
                shutil.move(folder, out)
    except OSError as error:
        _raise_with_path(error, out)


def _raise_with_path(error: Exception, path: Path) -> NoReturn:
    """Raise the operating system's error with the path that the caller knows."""
    number = os_error_number(error)
    if number is None:
        raise error
    raise OSError(number, os.strerror(number), str(path)) from error
