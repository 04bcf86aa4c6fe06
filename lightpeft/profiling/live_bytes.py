"""Count the bytes of the tensors that a training step holds, also of tensors without data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightpeft.profiling.step_functions import make_training_step

_WEAK_REFERENCE: Any = StorageWeakRef  # untyped


def track_training_peak(model: PeftModel, batch: Mapping[str, Tensor]) -> int:
    """Return the most bytes that tensors hold at one time in training steps of a model on a CPU.

    Two steps, since the first has no moments of AdamW yet. It is deterministic, and works with the
    tensors of torch's `FakeTensorMode`, which have no data and take no time to compute.

    Attention and dropout count as on a GPU: attention by a kernel that keeps no matrix of its
    probabilities (flash, memory-efficient), also with dropout, which on a CPU would make one; a
    mask of dropout as a byte per value.

    Args:
        model: its trainable weights are cast to float32.
        batch: arguments of the model. Without a mask for padding: a tensor without data can't tell
            that there is none.
    """
    step = make_training_step(model, batch)
    with LiveBytes([*model.parameters(), *model.buffers(), *batch.values()]) as live, _GpuKernels():
        step()
        step()
    peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its metaclass
    """The most bytes that tensors held at one time while the mode was entered.

    A storage counts once, however many tensors view it. What a kernel allocates for itself, and
    what an allocator rounds up, is not seen.

    Attributes:
        peak: the most bytes so far.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        """Count tensors that are alive from the start, such as the weights."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, tuple[Any, int]] = {}  # with a weak reference
        self._sum = self.peak = 0
        self._see(held)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._see(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _see(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = self._alive.get(storage._cdata)
            if known is None or known[0].expired():
                size = storage.nbytes()
                self._sum += size - (known[1] if known else 0)
                self._alive[storage._cdata] = (_WEAK_REFERENCE(storage), size)
        if self._sum > self.peak:  # with storages that are gone by now
            self._alive = {key: one for key, one in self._alive.items() if not one[0].expired()}
            self._sum = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._sum)


class _GpuKernels(TorchFunctionMode):
    """Calls dropout and attention so that they keep on a CPU what their GPU kernels keep."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _drop_out(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            kwargs = kwargs | {"dropout_p": 0.0}
        return func(*args, **kwargs)


def _drop_out(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Return `functional.dropout`, by the operator that it is on a GPU."""
    return torch.native_dropout(input, p, training)[0] if training and p else input
