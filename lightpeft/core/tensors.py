"""Read and write safetensors: the part of reading and writing that needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightpeft.core.errors import LightPeftError
from lightpeft.core.names import EXPANDED_ENTRY, PLAN_ENTRY
from lightpeft.core.safetensors_header import require_safetensors
from lightpeft.core.serialization import replace_file

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(path: Path, error: type[LightPeftError]) -> dict[str, Tensor]:
    """Read safetensors onto the CPU.

    Raises:
        error: the file is missing, cut short, or not safetensors, or a tensor is not finite.
    """
    require_safetensors(path, error)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError, LookupError, RuntimeError, ValueError) as cause:
        raise error(f"{path} is not readable safetensors ({cause}); was it cut short?") from cause
    check_finite(tensors, error, f"{path}: ")
    return tensors


def check_finite(
    tensors: Mapping[str, Tensor], error: type[LightPeftError], prefix: str = ""
) -> None:
    """Refuse NaN and infinity, and dtypes that can't be trained.

    Raises:
        error: names the tensor after `prefix`.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES and (tensor.is_floating_point() or tensor.is_complex()):
            raise error(f"{prefix}{name} must not be of dtype {tensor.dtype}")
        if not bool(tensor.float().isfinite().all()):  # also what float32 can't hold
            raise error(f"{prefix}{name} holds NaN or infinity")


def write_tensors(
    path: Path, tensors: dict[str, Tensor], *, plan: str | None = None, expanded: bool = False
) -> None:
    """Write safetensors, with the plan's digest as the only metadata.

    The format fixes no order of metadata: with more, equal tensors would not be equal files.

    Args:
        path: of the file.
        tensors: to write.
        plan: digest of the plan that they were pruned by.
        expanded: whether they were expanded to full size afterwards.
    """
    metadata = None if plan is None else {EXPANDED_ENTRY if expanded else PLAN_ENTRY: plan}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(contiguous, temporary, metadata)
