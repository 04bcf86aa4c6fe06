"""Make the two steps of generation: prefill of the KV cache, and decoding of one more token."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lightpeft.acceleration.layer import AcceleratedLinear
from lightpeft.profiling.random_batches import find_model_kind, get_base_model
from lightpeft.profiling.step_functions import Step, choose_autocast


@dataclass(frozen=True, kw_only=True)
class DecodeTraffic:
    """What one decode step reads from memory.

    Attributes:
        weights: bytes of the parameters that take part, each once; of an embedding table a step
            looks up a few rows, so it counts only where it is the output projection too.
        cache: bytes of the keys and values, each counted once; transformers also copies them when
            it appends the new token's.
        modules: paths, in the base model, of the modules that run.
    """

    weights: int
    cache: int
    modules: frozenset[str]


def make_prefill_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that fills a KV cache from the prompts; sets evaluation mode.

    As in generation, logits are of the last token alone where the model can leave out the others
    (`supports_logits_to_keep`). An encoder-decoder reads the prompt, and as many tokens on the
    decoder's side.
    """
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if find_model_kind(model) == "seq2seq":
        inputs["decoder_input_ids"] = batch["labels"]
    if supports_logits_to_keep(model):
        inputs["logits_to_keep"] = 1
    return _make_forward(model, inputs)


def make_decode_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that decodes one more token of each row; sets evaluation mode.

    The KV cache holds the rows of the batch and is the same before every call, so that all calls
    do the same work: as in generation, attention gets the cache with the new token's keys and
    values appended to a copy, but the cache does not keep them.
    """
    return _make_decode_step(model, batch)[0]


def measure_decode_traffic(model: PeftModel, batch: Mapping[str, Tensor]) -> DecodeTraffic:
    """Run a decode step on this batch and count what it reads."""
    step, cache = _make_decode_step(model, batch)
    executed: set[nn.Module] = set()
    hook = register_module_forward_pre_hook(lambda module, args: executed.add(module))
    step()
    hook.remove()
    # An accelerated LoRA layer reads its parts, but calls none of them.
    weights = {
        id(weight): weight.numel() * weight.element_size()
        for module in executed
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=isinstance(module, AcceleratedLinear))
    }
    states: list[Tensor] = [
        x for layer in _list_cache_layers(cache) for x in (layer.keys, layer.values)
    ]
    return DecodeTraffic(
        weights=sum(weights.values()),
        cache=sum(state.numel() * state.element_size() for state in states),
        modules=frozenset(n for n, m in get_base_model(model).named_modules() if m in executed),
    )


def supports_logits_to_keep(model: PeftModel) -> bool:
    """Return whether the model can compute the logits of the last token alone."""
    return "logits_to_keep" in inspect.signature(get_base_model(model).forward).parameters


def _make_decode_step(model: PeftModel, batch: Mapping[str, Tensor]) -> tuple[Step, Any]:
    """Return a decode step, and the KV cache that it reads."""
    prefilled = make_prefill_step(model, batch)()
    _freeze_cache(prefilled.past_key_values)
    inputs = _make_next_token_inputs(model, batch, prefilled)
    return _make_forward(model, inputs), prefilled.past_key_values


def _make_forward(model: PeftModel, inputs: Mapping[str, Any]) -> Step:
    model.eval()
    autocast = choose_autocast(model)

    def step() -> Any:
        with torch.inference_mode(), autocast():
            return model(**inputs, use_cache=True)

    return step


def _make_next_token_inputs(
    model: PeftModel, batch: Mapping[str, Tensor], prefilled: Any
) -> dict[str, Any]:
    """Return the model's inputs for one more token after a prefill."""
    token, mask = batch["input_ids"][:, :1], batch["attention_mask"]
    inputs: dict[str, Any] = {"past_key_values": prefilled.past_key_values}
    if find_model_kind(model) == "seq2seq":
        return inputs | {
            "encoder_outputs": (prefilled.encoder_last_hidden_state,),
            "attention_mask": mask,
            "decoder_input_ids": token,
        }
    longer_mask = torch.cat([mask, torch.ones_like(token)], dim=1)
    return inputs | {"input_ids": token, "attention_mask": longer_mask}


def _list_cache_layers(cache: Any) -> list[Any]:
    """Return the layers of a KV cache; an encoder-decoder's has two for each decoder layer."""
    names = ("self_attention_cache", "cross_attention_cache")
    caches = [getattr(cache, name) for name in names if hasattr(cache, name)] or [cache]
    return [layer for inner in caches for layer in inner.layers]


def _freeze_cache(cache: Any) -> None:
    """Make each layer of a KV cache return the appended keys and values without keeping them.

    transformers 5.23 has no cache that is read only: `DynamicLayer.update` keeps what it appends,
    `crop` refuses sliding windows, and a copy of the cache for each step would be two caches in
    memory, twice what generation needs. So a layer's state is put back as soon as it was handed
    to attention.
    """
    for layer in _list_cache_layers(cache):
        # A weak reference: a cycle would keep the cache in memory after the measurement.
        layer.update = partial(_update_without_keeping, weakref.ref(layer))


def _update_without_keeping(reference: weakref.ref[Any], *args: Any, **kwargs: Any) -> Any:
    layer: Any = reference()
    state = dict(vars(layer))
    extended = type(layer).update(layer, *args, **kwargs)
    vars(layer).update(state)
    return extended
