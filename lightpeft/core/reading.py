"""Read JSON and digests that may be damaged or hostile: bounded, and an error is one line."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lightpeft.core.errors import LightPeftError
from lightpeft.core.names import DIGESTS
from lightpeft.core.serialization import format_digests

REMEDY = "run the stages estimate and prune again"
# The longest plan.json of a model of 405 billion parameters, with 126 blocks of 53,248 neurons of
# which every other one is kept, has 20 MB. Headers of safetensors are JSON, and much shorter.
MAX_JSON_BYTES = 32 * 2**20
_Value = TypeVar("_Value")


def read_bytes(path: Path, error: type[LightPeftError]) -> bytes:
    """Read a small file.

    Raises:
        error: the file is missing, no regular file, or larger than `MAX_JSON_BYTES`.
    """
    require_file(path, error)
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise error(f"{path} is too large: at most {MAX_JSON_BYTES:,} bytes are read")
    return data


def read_json(path: Path, error: type[LightPeftError]) -> Any:
    """Read a JSON object.

    Raises:
        error: the file is missing, too large, cut short, not a JSON object, or has a key twice or a
            number that is not finite.
    """
    try:
        value = json.loads(
            read_bytes(path, error).decode(),
            object_pairs_hook=_build_object,
            parse_constant=_parse_finite,
            parse_float=_parse_finite,
        )
    except (ValueError, RecursionError) as cause:
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
        expected: the format that is read, as `lightpeft-plan-4`.
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


def parse_as(
    kind: TypeAdapter[_Value], value: Any, path: Path, error: type[LightPeftError]
) -> _Value:
    """Check the types of all values in a JSON object; none is converted.

    Args:
        kind: what the object must hold.
        value: from `read_json`.
        path: of the file, for the message.
        error: to raise.

    Raises:
        error: a value is missing, left over, or of another type (names it).
    """
    try:
        # Only when it reads JSON does pydantic take a list for a tuple without converting numbers.
        return kind.validate_json(json.dumps(value), strict=True)
    except ValidationError as cause:
        first = cause.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        got = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
        raise error(f"{path} is damaged: {where}: {first['msg']}{got}") from cause
    except RecursionError as cause:
        raise error(f"{path} is damaged: it is nested too deeply") from cause


def check_digests(
    folder: Path, names: tuple[str, ...], error: type[LightPeftError], *, remedy: str = REMEDY
) -> None:
    """Refuse a folder in which any bit of a file has changed since it was written.

    The digests need no protection: they must be those of the files, byte by byte.

    Args:
        folder: with a file of digests.
        names: its other files.
        error: to raise.
        remedy: what to do about a folder without digests.

    Raises:
        error: names the file that is missing, or does not have its digest.
    """
    names = tuple(sorted(names))
    for name in names:
        require_file(folder / name, error)
    if not (folder / DIGESTS).exists():
        raise error(
            f"{folder} has no {DIGESTS}: it was written by an older version of lightpeft, or not "
            f"copied completely; {remedy}"
        )
    digests, expected = read_bytes(folder / DIGESTS, error), format_digests(folder, names)
    if digests != expected:
        lines = zip(names, expected.splitlines(), strict=True)
        changed = [name for name, line in lines if line not in digests.splitlines()]
        raise error(
            f"{folder / changed[0]} is not the file that was saved, by its digest in {DIGESTS}; "
            f"was it cut short or edited?"
            if changed
            else f"{folder / DIGESTS} is not what sha256sum prints for {' '.join(names)}"
        )


def require_file(path: Path, error: type[LightPeftError]) -> None:
    """Refuse what reading might never end of: devices, pipes; and folders.

    Raises:
        error: the file is missing, can't be read, or is no regular file.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path} does not exist") from None
    except OSError as cause:
        raise error(f"{path} can't be read: {cause.strerror}") from cause
    if not stat.S_ISREG(mode):
        raise error(f"{path} is not a regular file")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!r} is there twice")
        value[key] = item
    return value


def _parse_finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
