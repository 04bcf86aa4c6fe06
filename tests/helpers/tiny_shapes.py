"""Tiny versions of the benchmark's models, with the same ratios of heads and layers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from peft import PeftModel

from lightpeft.benchmark.model_sizes import MODEL_SIZES, ModelSize
from lightpeft.benchmark.run import BenchmarkConfig, build_method_model

LENGTH = 9
KINDS = ("minilm", "modernbert-base", "opt-1.3b", "llama-2-7b", "llama-3-8b", "qwen3-0.6b")
KINDS += ("gemma-3-4b", "t5-base", "vit-base")
GENERATING = tuple(name for name in KINDS if MODEL_SIZES[name].kind in ("decoder", "seq2seq"))
_SIZES = {
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "head_dim": 8,
    "sliding_window": 6,
    "sliding_window_pattern": 2,
    "d_model": 32,
    "d_kv": 4,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 8,
    "image_size": 32,
}
_TOKENS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def make_tiny_shape(name: str) -> ModelSize:
    """Return a listed model, tiny; query heads share keys and values where the real ones do."""
    size = MODEL_SIZES[name]
    real = transformers.AutoConfig.for_model(**size.sizes).to_dict()
    known = {key: value for key, value in real.items() if value is not None}
    sizes = size.sizes | {key: tiny for key, tiny in _SIZES.items() if key in known} | _TOKENS
    if "num_key_value_heads" in known:
        shared = real["num_key_value_heads"] < real["num_attention_heads"]
        sizes["num_key_value_heads"] = 4 if shared else 8
    if name == "modernbert-base":  # the real one is one of the last of its larger vocabulary
        sizes["pad_token_id"] = _SIZES["vocab_size"] - 1
    return ModelSize(kind=size.kind, sizes=sizes)


def find_length(name: str) -> int:
    """Return the tokens a row of a tiny model."""
    return make_tiny_shape(name).length if MODEL_SIZES[name].kind == "image" else LENGTH


def make_tiny_method_model(name: str, method: str, **options: Any) -> PeftModel:
    """Build the benchmark's model of a size that is tiny already, all weights of order 1."""
    config = BenchmarkConfig(shape=name, ratio=0.5, length=find_length(name), **options)
    model = build_method_model(config, method, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(noise * weight.shape[-1] ** -0.5)
    return model.eval()
