"""Write JSON, digests and whole folders, completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import safetensors

from lightpeft.core.command_line import find_os_error_number
from lightpeft.core.errors import CheckpointError
from lightpeft.core.names import DIGESTS


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN is refused, since it is not standard JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every file in a folder, as `sha256sum` does."""
    names = sorted(path.name for path in folder.iterdir())
    (folder / DIGESTS).write_bytes(format_digests(folder, names))


def format_digests(folder: Path, names: Iterable[str]) -> bytes:
    """Return what `sha256sum` prints for files of a folder."""
    lines = []
    for name in names:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {name}\n")
    return "".join(lines).encode()


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file that replaces `path` once it is written completely.

    If anything fails inside, the temporary file is removed and `path` is left as it was.

    Raises:
        OSError: it names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _make_parent(path)
        yield temporary
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        _raise_with_path(error, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def replace_directory(out: Path) -> Iterator[Path]:
    """Yield a folder whose files replace those of `out` once all of them are written.

    If anything fails inside, `out` is left as it was. Other files in `out` are kept.

    Raises:
        OSError: it names `out`.
    """
    try:
        _make_parent(out)
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


@contextmanager
def replace_whole_directory(out: Path, marker: str) -> Iterator[Path]:
    """Yield a folder that takes the place of `out` once all of it is written.

    If anything fails inside, `out` is left as it was. Otherwise nothing of it is left.

    Args:
        out: to be created or replaced.
        marker: name of a file that is in every folder of this kind: another folder with files is
            not replaced.

    Raises:
        CheckpointError: `out` is no such folder, or can't be one.
        OSError: it names `out`.
    """
    out = out.resolve()
    if out.exists() and not (out / marker).exists() and not (out.is_dir() and _is_empty(out)):
        raise CheckpointError(
            f"{out} has no {marker}, so it holds something else and is not replaced; "
            f"choose another folder"
        )
    try:
        _make_parent(out)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as parent:
            new, old = Path(parent) / "new", Path(parent) / "old"
            new.mkdir()
            yield new
            if out.exists():
                out.rename(old)
            try:
                new.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
    except (OSError, safetensors.SafetensorError) as error:
        _raise_with_path(error, out)


def _make_parent(path: Path) -> None:
    """Make the folder that a path is in.

    Raises:
        CheckpointError: there can't be such a folder, as under /proc.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} can't be written: there can be no {path.parent}") from error


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _raise_with_path(error: Exception, path: Path) -> NoReturn:
    """Raise the operating system's error with the path that the caller knows."""
    number = find_os_error_number(error)
    if number is None:
        raise error
    raise OSError(number, os.strerror(number), str(path)) from error
