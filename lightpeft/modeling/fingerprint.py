"""Sizes of linears, quantized or not, and a fingerprint of the base weights."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

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


def get_in_out_features(linear: nn.Module) -> tuple[int, int]:
    """Return inputs and outputs of a linear; a Conv1D stores its weight as (in, out)."""
    assert isinstance(linear, nn.Linear | Conv1D)
    if isinstance(linear, nn.Linear) and is_quantized(
        linear.weight
    ):  # four bits are packed in pairs
        return linear.in_features, linear.out_features
    rows, columns = linear.weight.shape
    return (rows, columns) if isinstance(linear, Conv1D) else (columns, rows)


def compute_fingerprint(
    model: PreTrainedModel, shape: ModelShape, saved: Collection[str] = (), *, like: str = ""
) -> str:
    """Return a digest that tells base models apart by their weights.

    A few values of each weight are hashed, as bfloat16: the same checkpoint gives the same
    fingerprint whether it was loaded as float32 or as bfloat16. Quantized linears have other
    values than the checkpoint; there the weights that quantization leaves unchanged are hashed:
    embeddings, norms and the linears' biases, and the prefix `quantized-` is added. That tells
    apart checkpoints that were trained separately, but not two of which one was made from the
    other by training linears only.

    Args:
        model: its weights must be in memory.
        shape: of the model.
        saved: endings of the names of modules that the adapter holds in full, such as a new head:
            their weights in the base model make no difference.
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
    packed = (is_quantized(model.get_parameter(f"{name}.weight")) for name in shape.linears)
    quantized = like.startswith(_QUANTIZED) or any(packed)
    digest = hashlib.sha256()
    for name, weight in _select_hashed_weights(model, shape, quantized=quantized):
        if not any(f"{ending}." in name for ending in saved):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(_sample(weight).contiguous().view(torch.uint8).numpy().tobytes())
    return _QUANTIZED * quantized + digest.hexdigest()[:16]


def _select_hashed_weights(
    model: PreTrainedModel, shape: ModelShape, *, quantized: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and weights: all, or those that quantization leaves unchanged."""
    for name, weight in model.named_parameters(remove_duplicate=False):
        path, _, leaf = name.rpartition(".")
        if not quantized:
            is_hashed = not is_quantized(weight)
        elif isinstance(model.get_submodule(path), nn.Linear | Conv1D):
            is_hashed = leaf == "bias" and path in shape.linears
        else:
            is_hashed = weight.dim() <= 2
        if is_hashed and is_quantized(weight):
            raise ModelError(
                f"{name} is quantized: a quantized model's checkpoint is identified by "
                f"its embeddings, norms and biases; quantize linears only"
            )
        if is_hashed:
            yield name, weight


def _sample(parameter: Tensor) -> Tensor:
    """Return values from the whole weight and its last ones, where embeddings are added."""
    weight = parameter.detach().reshape(-1)
    stride = max(1, weight.numel() // _SAMPLE)
    return torch.cat([weight[::stride][:_SAMPLE], weight[-_SAMPLE:]]).to(torch.bfloat16).cpu()
