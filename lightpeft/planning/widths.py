"""Widths that matrix kernels run fast with."""

from __future__ import annotations

import torch

_CPU = 8
_TENSOR_CORES = 64


def choose_align(dtype: torch.dtype, device: torch.device) -> int:
    """Return which number the neurons of a layer should be a multiple of: `PruningConfig.align`.

    64 in 16 bits on CUDA: 128 bytes, to which tensor cores' tiles are filled without rest (NVIDIA,
    Matrix Multiplication Background User's Guide: multiples of 16 bytes, of 128 bytes on an A100).
    8 elsewhere: one AVX register of float32. `python -m experiments.widths` measures both.

    Example:
        >>> from lightpeft.planning.widths import choose_align
        >>> choose_align(torch.bfloat16, torch.device("cuda"))
        64
    """
    has_tensor_cores = device.type == "cuda" and dtype.itemsize == 2
    return _TENSOR_CORES if has_tensor_cores else _CPU
