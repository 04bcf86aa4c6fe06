"""The base weights as they lie in memory: whole or quantized, and which model's they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import ModelError
from lightpeft.core.shape import ModelShape

_SAMPLE = 256
_QUANTIZED = "quantized-"


def is_quantized(linear: nn.Module) -> bool:
    """Whether a linear's weight is packed, by torchao or bitsandbytes: it can't be sliced then."""
    assert isinstance(linear.weight, Tensor)
    return _is_quantized_tensor(linear.weight)


def in_out_features(linear: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear; a Conv1D keeps its weight as (in, out)."""
    assert isinstance(linear, nn.Linear | Conv1D)
    if isinstance(linear, nn.Linear) and is_quantized(linear):  # four bits are packed in pairs
        return linear.in_features, linear.out_features
    rows, columns = linear.weight.shape
    return (rows, columns) if isinstance(linear, Conv1D) else (columns, rows)


def fingerprint(model: PreTrainedModel, shape: ModelShape, *, like: str = "") -> str:
    """Tell one base model from another by the weights of its blocks.

    A few values of each block linear are hashed, as bfloat16: the same checkpoint gives the
    same fingerprint whether it was loaded as float32 or as bfloat16. Quantized linears have other
    values than the checkpoint; there it is what quantization leaves alone, embeddings, norms and
    the linears' biases, and `quantized-` goes before. That tells checkpoints of separate training
    apart, but not one from another in which nothing but linears was trained.

    Args:
        model: its weights in memory.
        shape: of the model.
        like: a fingerprint to compare with; one of a quantized model asks for the same of this.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: weights are not in memory, or more than linears is quantized.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise ModelError(
                f"{name} is not in memory (device meta): a model that is offloaded to CPU or disk, "
                f"or not loaded yet, can't be estimated or cut; give device_map devices alone"
            )
    linears = {name: model.get_submodule(name) for name in shape.linears}
    if like.startswith(_QUANTIZED) or any(map(is_quantized, linears.values())):
        return _QUANTIZED + _digest(_unquantized_weights(model, linears))
    return _digest((name, linear.weight) for name, linear in linears.items())


def _unquantized_weights(
    model: PreTrainedModel, linears: dict[str, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    """Names and weights that are the same in a quantized model; no task head, which is fresh."""
    for path, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D)
        for name, weight in module.named_parameters(recurse=False):
            wanted = name == "bias" and path in linears if is_linear else weight.dim() <= 2
            if wanted and _is_quantized_tensor(weight):
                raise ModelError(
                    f"{path}.{name} is quantized: a quantized model's checkpoint is known by its "
                    f"embeddings, norms and biases; quantize linears alone"
                )
            if wanted:
                yield f"{path}.{name}", weight


def _is_quantized_tensor(weight: Tensor) -> bool:
    return type(weight).__module__.startswith("torchao.") or not weight.is_floating_point()


def _digest(weights: Iterable[tuple[str, Tensor | nn.Module]]) -> str:
    digest = hashlib.sha256()
    for name, found in weights:
        assert isinstance(found, Tensor)
        weight = found.detach()
        stride = max(1, weight.numel() // _SAMPLE)
        sample = weight.reshape(-1)[::stride][:_SAMPLE].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
