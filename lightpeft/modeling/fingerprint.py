"""Sizes of linears, quantized or not, and a fingerprint of the base weights."""

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


def is_quantized(weight: Tensor) -> bool:
    """Return whether a weight is packed, by torchao or bitsandbytes, and so can't be sliced."""
    return type(weight).__module__.startswith("torchao.") or not weight.is_floating_point()


def in_out_features(linear: nn.Module) -> tuple[int, int]:
    """Return inputs and outputs of a linear; a Conv1D stores its weight as (in, out)."""
    assert isinstance(linear, nn.Linear | Conv1D)
    if isinstance(linear, nn.Linear) and is_quantized(
        linear.weight
    ):  # four bits are packed in pairs
        return linear.in_features, linear.out_features
    rows, columns = linear.weight.shape
    return (rows, columns) if isinstance(linear, Conv1D) else (columns, rows)


def fingerprint(model: PreTrainedModel, shape: ModelShape, *, like: str = "") -> str:
    """Return a digest that tells base models apart by the weights of their blocks.

    A few values of each block linear are hashed, as bfloat16: the same checkpoint gives the
    same fingerprint whether it was loaded as float32 or as bfloat16. Quantized linears have other
    values than the checkpoint; there the weights that quantization leaves unchanged are hashed:
    embeddings, norms and the linears' biases, and the prefix `quantized-` is added. That tells
    apart checkpoints that were trained separately, but not two of which one was made from the
    other by training linears only.

    Args:
        model: its weights must be in memory.
        shape: of the model.
        like: a fingerprint to compare with: if it has the prefix, this one is computed in the same
            way.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: weights are not in memory, or more than linears is quantized.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise ModelError(
                f"{name} is not in memory (device meta): a model that is offloaded to CPU or disk, "
                f"or not loaded yet, can't be estimated or pruned; use a device_map of devices only"
            )
    linears = {name: model.get_submodule(name) for name in shape.linears}
    weights = {name: linear.get_parameter("weight") for name, linear in linears.items()}
    if like.startswith(_QUANTIZED) or any(map(is_quantized, weights.values())):
        return _QUANTIZED + _digest(_unquantized_weights(model, linears))
    return _digest(weights.items())


def _unquantized_weights(
    model: PreTrainedModel, linears: dict[str, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and weights that quantization leaves unchanged, without those of a new head."""
    for path, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear | Conv1D)
        for name, weight in module.named_parameters(recurse=False):
            is_hashed = name == "bias" and path in linears if is_linear else weight.dim() <= 2
            if is_hashed and is_quantized(weight):
                raise ModelError(
                    f"{path}.{name} is quantized: a quantized model's checkpoint is identified by "
                    f"its embeddings, norms and biases; quantize linears only"
                )
            if is_hashed:
                yield f"{path}.{name}", weight


def _digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in weights:
        weight = parameter.detach()
        stride = max(1, weight.numel() // _SAMPLE)
        sample = weight.reshape(-1)[::stride][:_SAMPLE].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
