"""RMS norms in one kernel each way."""

from __future__ import annotations

from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lightpeft.acceleration.variant import Variant, make_variant


class FusedNorm(Variant):
    """Computes an RMS norm with the operator of torch, which has a kernel each way on CUDA.

    transformers takes 8 kernels forwards and 13 backwards, as torch does on a CPU. In 16 bits
    it rounds before the product with the weight, and torch only after it.
    """

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return the output, as transformers computes it for an input of another dtype."""
        if len(arguments) == 1 and not options and self._can_take(arguments[0]):
            weight: Any = self.weight
            return rms_norm(arguments[0], weight.shape, weight, self.variance_epsilon)  # type: ignore[arg-type]
        return super().forward(*arguments, **options)

    def _can_take(self, x: Any) -> bool:
        """Return whether all is of one dtype; a compiler fuses the stock norm by itself."""
        if torch.compiler.is_compiling() or not isinstance(x, Tensor):
            return False
        has_autocast = torch.is_autocast_enabled(x.device.type)
        return not has_autocast and x.dtype == self.weight.dtype


def fuse_norms(model: nn.Module) -> list[str]:
    """Let norms with the code of Llama's, as most models have, be computed at once.

    Others stay as they are, such as Gemma's, which adds 1 to the weight.

    Returns:
        Their paths.
    """
    norms = {path: module for path, module in model.named_modules() if _is_llama_norm(module)}
    for module in norms.values():
        make_variant(module, FusedNorm)
    return list(norms)


def _is_llama_norm(module: nn.Module) -> bool:
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and _describe(code) == _describe(LlamaRMSNorm.forward.__code__)


def _describe(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, whatever its name and place."""
    return code.co_code, code.co_consts, code.co_names, code.co_varnames
