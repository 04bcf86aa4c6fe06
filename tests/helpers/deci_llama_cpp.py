"""What llama.cpp makes of DeciLM: its converter and its graph, written again from their formulas.

The converter is conversion/deci.py, whose names of tensors are those of the package gguf; the graph
is src/models/deci.cpp.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class GgufModel:
    """Values and tensors of a GGUF file; of values with one per layer a list."""

    heads: list[int]
    kv_heads: list[int]
    widths: list[int]
    head_size: int
    theta: float
    eps: float
    tensors: dict[str, Tensor]


def convert(folder: Path) -> GgufModel:
    """Convert as conversion/deci.py does."""
    config = json.loads((folder / "config.json").read_text())
    blocks, total = config["block_configs"], config["num_attention_heads"]
    assert config["num_hidden_layers"] == len(blocks)
    assert isinstance(blocks[0]["ffn"]["ffn_mult"], float)
    heads, kv_heads, widths = [], [], []
    for block in blocks:
        group = block["attention"]["n_heads_in_group"]
        assert not block["attention"]["replace_with_linear"]
        heads.append(0 if group is None else total)
        kv_heads.append(0 if group is None else total // group)
        width = int(2 * (block["ffn"]["ffn_mult"] or 0.0) * config["hidden_size"] / 3)
        widths.append(width + -width % 256)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DECI, len(blocks))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for kind, counts in (("q_proj", heads), ("k_proj", kv_heads)):
            if kind in name:
                pairs = tensor.reshape(counts[int(name.split(".")[2])], 2, -1, *tensor.shape[1:])
                tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        tensors[new] = tensor
    size, theta, eps = config["hidden_size"] // total, config["rope_theta"], config["rms_norm_eps"]
    assert config["head_dim"] == size  # the head size of RoPE, which the graph compares
    return GgufModel(heads, kv_heads, widths, size, theta, eps, tensors)


def compute_logits(model: GgufModel, ids: Tensor) -> Tensor:
    """Compute as src/models/deci.cpp does, for one row of token ids."""
    x = model.tensors["token_embd.weight"][ids]
    for layer in range(len(model.heads)):
        entry = cur = x
        if model.heads[layer]:
            cur = _attend(model, layer, _norm(model, f"blk.{layer}.attn_norm.weight", x))
        if model.widths[layer] == 0:
            continue  # what attention computed is lost
        x = cur + entry if model.heads[layer] else cur
        cur = _norm(model, f"blk.{layer}.ffn_norm.weight", x)
        gate = functional.silu(_linear(model, f"blk.{layer}.ffn_gate", cur))
        cur = _linear(
            model, f"blk.{layer}.ffn_down", gate * _linear(model, f"blk.{layer}.ffn_up", cur)
        )
        x = x + cur
    output = model.tensors.get("output.weight", model.tensors["token_embd.weight"])
    return _norm(model, "output_norm.weight", x) @ output.T


def _norm(model: GgufModel, name: str, x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], model.tensors[name], model.eps)


def _linear(model: GgufModel, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, model.tensors[f"{name}.weight"], model.tensors.get(f"{name}.bias"))


def _attend(model: GgufModel, layer: int, x: Tensor) -> Tensor:
    count, kv_count = model.heads[layer], model.kv_heads[layer]
    q, k, v = (
        _linear(model, f"blk.{layer}.attn_{name}", x)
        .view(len(x), n, model.head_size)
        .swapaxes(0, 1)
        for name, n in (("q", count), ("k", kv_count), ("v", kv_count))
    )
    k, v = (y.repeat_interleave(count // kv_count, dim=0) for y in (_rotate(model, k), v))
    y = functional.scaled_dot_product_attention(_rotate(model, q), k, v, is_causal=True)
    return _linear(model, f"blk.{layer}.attn_output", y.swapaxes(0, 1).flatten(1))


def _rotate(model: GgufModel, x: Tensor) -> Tensor:
    """Rotate pairs of neighbours, shape (heads, positions, head size)."""
    size = model.head_size
    frequencies = model.theta ** -(torch.arange(0, size, 2) / size)
    angles = torch.arange(x.shape[1])[:, None] * frequencies
    even, odd = x[..., ::2], x[..., 1::2]
    rotated = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(rotated, dim=-1).flatten(-2)
