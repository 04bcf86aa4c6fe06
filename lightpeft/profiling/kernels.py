"""Count the kernels that a step launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that only allocate memory, or read a number that the host has.
_WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
                   "_unsafe_view", "_reshape_alias", "lift_fresh", "detach", "alias")  # fmt: skip


def count_kernels(step: Callable[[], Any]) -> Counter[str]:
    """Return how often a step runs each operator of torch that computes or copies something.

    An operator is about a kernel on a GPU: a view or an allocation launches none, and one on a
    list of tensors launches a few more. Warm up first: the first step of an optimizer also makes
    its state. An RMS norm of `torch.nn.functional` is one operator each way, as on CUDA, where
    torch has kernels for it; a CPU runs its formula.

    Args:
        step: run once.

    Returns:
        Name of the operator, such as `addmm` -> number of calls.
    """
    counter = _Counter()
    with _fused_norms(), counter:
        step()
    return counter.kernels


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its metaclass
    """Counts operators below autograd and autocast, forward and backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        is_mark = name.startswith("profiler::")
        if not is_mark and not func.is_view and name not in _WITHOUT_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _fused_norms() -> Iterator[None]:
    """Give the CPU the operators for RMS norms that torch has for CUDA alone."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl("_fused_rms_norm", _normalize, "CPU")  # type: ignore[no-untyped-call]
    library.impl("_fused_rms_norm_backward", _differentiate_norm, "CPU")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        library._destroy()  # type: ignore[no-untyped-call]


def _normalize(
    x: Tensor, shape: Sequence[int], weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    return (x * scale * weight).to(x.dtype), scale


def _differentiate_norm(
    gradient: Tensor, x: Tensor, shape: Sequence[int], scale: Tensor, weight: Tensor, mask: Any
) -> tuple[Tensor, Tensor]:
    normal, weighted = x * scale, gradient.float() * weight
    of_x = scale * (weighted - normal * (weighted * normal).mean(-1, keepdim=True))
    of_weight = (gradient * normal).flatten(0, -2).sum(0)
    return of_x.to(x.dtype), of_weight.to(weight.dtype)
