"""Decode one more token with a KV cache of fixed size, as a compiled decoder is deployed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from lightpeft.profiling.random_batches import find_model_kind
from lightpeft.profiling.step_functions import Step


def has_static_cache(model: PreTrainedModel) -> bool:
    """Return whether a model's cache can have a fixed size: transformers compiles its decoding."""
    return find_model_kind(model) == "decoder" and bool(model._can_compile_fullgraph)


def make_static_decode_step(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that decodes one more token of each row; sets evaluation mode.

    As in transformers' generation, the mask and the position come with the token: OPT would compute
    them from the length of the cache, which it reads from the device (modeling_opt.py:350, :357 of
    transformers 5.23), a wait for all kernels in each step and a graph break in a compiled one.

    The cache is written once, by a prefill of the batch, and has room for one token more. Its
    layers take the number of their KV heads from the first keys that they get, so that pruned
    models may keep another number in each. Each call writes its token to the same place.

    Args:
        model: a plain decoder, its weights of one dtype.
        batch: random tokens without padding.
    """
    model.eval()
    ids = batch["input_ids"]
    cache = StaticCache(config=model.config, max_cache_len=ids.shape[1] + 1)
    # Not inference_mode: torch.compile marks the cache's addresses as fixed, and writes to it.
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    mask = ids.new_ones(len(ids), ids.shape[1] + 1)
    inputs = {"input_ids": ids[:, :1].clone(), "attention_mask": mask}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = ids.new_full((len(ids), 1), ids.shape[1])
    lengths = [layer.cumulative_length for layer in cache.layers]
    before = [length.clone() for length in lengths]
    windows = [(layer, n) for layer in cache.layers if (n := _get_window_length(layer)) is not None]

    def step() -> Any:
        torch._foreach_copy_(lengths, before)
        for layer, length in windows:
            layer.cumulative_length_int = length
        with torch.no_grad():
            return model(**inputs, past_key_values=cache, use_cache=True)

    return step


def _get_window_length(layer: Any) -> int | None:
    """Return the tokens that a sliding window has seen, which it also keeps as an integer."""
    length: int | None = getattr(layer, "cumulative_length_int", None)
    return length
