"""Read the headers of safetensors, without their data and without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import safetensors

from lightpeft.core.errors import LightPeftError
from lightpeft.core.names import PLAN_ENTRY
from lightpeft.core.reading import MAX_JSON_BYTES, require_file


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a header says of one tensor; `dtype` is the format's name, such as `BF16`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """What a file of safetensors holds, but for the data.

    Attributes:
        path: of the file.
        num_bytes: size of the file.
        metadata: of the file.
        tensors: by name.
    """

    path: Path
    num_bytes: int
    metadata: dict[str, str]
    tensors: dict[str, TensorHeader]

    @property
    def num_values(self) -> int:
        """Number of values of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


def read_header(path: Path, error: type[LightPeftError]) -> SafetensorsHeader:
    """Read a header; the sizes in it are those of the file, or it is refused.

    Raises:
        error: the file is missing, cut short, or not safetensors.
    """
    require_safetensors(path, error)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            tensors = {
                name: TensorHeader(dtype=part.get_dtype(), shape=tuple(part.get_shape()))
                for name, part in slices.items()
            }
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, LookupError, RuntimeError, ValueError) as cause:
        raise error(f"{path} is not readable safetensors ({cause}); was it cut short?") from cause
    size = path.stat().st_size
    return SafetensorsHeader(path=path, num_bytes=size, metadata=metadata, tensors=tensors)


def read_plan_digest(path: Path, error: type[LightPeftError]) -> str | None:
    """Return the digest of the plan that safetensors were pruned by.

    Raises:
        error: as `read_header`.
    """
    return read_header(path, error).metadata.get(PLAN_ENTRY)


def require_safetensors(path: Path, error: type[LightPeftError]) -> None:
    """Refuse what is no regular file, and a header that is too long to read.

    Raises:
        error: the file is missing or can't be safetensors.
    """
    require_file(path, error)
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > MAX_JSON_BYTES:
            raise error(f"{path} is not readable safetensors (long header); was it cut short?")
