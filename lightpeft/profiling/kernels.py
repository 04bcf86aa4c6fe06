"""Count the kernels that a step launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that only allocate memory, or read a number that the host has.
_WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
                   "_unsafe_view", "_reshape_alias", "lift_fresh", "detach", "alias")  # fmt: skip


def count_kernels(step: Callable[[], Any]) -> Counter[str]:
    """Return how often a step runs each operator of torch that computes or copies something.

    An operator is about a kernel on a GPU: a view or an allocation launches none, and one on a
    list of tensors launches a few more. Warm up first: the first step of an optimizer also makes
    its state.

    Args:
        step: run once.

    Returns:
        Name of the operator, such as `addmm` -> number of calls.
    """
    counter = _Counter()
    with counter:
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
        if not func.is_view and name not in _WITHOUT_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))
