"""Generation in its two parts: filling the KV cache from a prompt, and a token more from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lightpeft.profiling.random_batches import model_kind
from lightpeft.profiling.step_functions import Step, autocast_for


@dataclass(frozen=True, kw_only=True)
class DecodeTraffic:
    """What one decode step reads.

    Attributes:
        weights: bytes of the parameters that take part, each once; of an embedding table a step
            looks up a few rows, so it counts only where it is the output projection too.
        cache: bytes of the keys and values, each counted once; the library also copies them when
            it appends the new token's.
        modules: paths, in the base model, of the modules that run.
    """

    weights: int
    cache: int
    modules: frozenset[str]


def make_prefill_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """A pass over the prompt that fills a KV cache, as one call; sets evaluation mode.

    As in generation, logits are of the last token alone where the model can leave out the others
    (`last_logits`). An encoder-decoder reads the prompt and as many tokens on the decoder's side.
    """
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if model_kind(model) == "seq2seq":
        inputs["decoder_input_ids"] = batch["labels"]
    if supports_logits_to_keep(model):
        inputs["logits_to_keep"] = 1
    return _forward(model, inputs)


def make_decode_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """One more token of each row from a filled KV cache, as one call; sets evaluation mode.

    The cache holds the rows of the batch and stays as it is, so that every call does the same:
    attention gets the keys and values with the new token's, as a copy, as in generation, and what
    the cache keeps of them is dropped.
    """
    filled = make_prefill_step(model, batch)()
    _freeze_cache(filled.past_key_values)
    return _forward(model, _next_token(model, batch, filled))


def measure_decode_traffic(model: PeftModel, batch: Mapping[str, Tensor]) -> DecodeTraffic:
    """What a decode step on this batch reads: found by running one."""
    filled = make_prefill_step(model, batch)()
    _freeze_cache(filled.past_key_values)
    step = _forward(model, _next_token(model, batch, filled))
    ran: dict[str, nn.Module] = {}
    hooks = [
        module.register_forward_pre_hook(partial(_record_call, ran, name))
        for name, module in model.get_base_model().named_modules()
    ]
    step()
    for hook in hooks:
        hook.remove()
    weights = {
        id(weight): weight.numel() * weight.element_size()
        for module in ran.values()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    states = [state for layer in _layers(filled.past_key_values) for state in _states(layer)]
    return DecodeTraffic(
        weights=sum(weights.values()),
        cache=sum(state.numel() * state.element_size() for state in states),
        modules=frozenset(ran),
    )


def supports_logits_to_keep(model: PeftModel) -> bool:
    """Whether the model can compute the logits of the last token alone."""
    return "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters


def _forward(model: PeftModel, inputs: Mapping[str, Any]) -> Step:
    model.eval()

    def step() -> Any:
        with torch.inference_mode(), autocast_for(model):
            return model(**inputs, use_cache=True)

    return step


def _next_token(model: PeftModel, batch: Mapping[str, Tensor], filled: Any) -> dict[str, Any]:
    token, mask = batch["input_ids"][:, :1], batch["attention_mask"]
    inputs: dict[str, Any] = {"past_key_values": filled.past_key_values}
    if model_kind(model) == "seq2seq":
        encoded = (filled.encoder_last_hidden_state,)
        return inputs | {
            "encoder_outputs": encoded,
            "attention_mask": mask,
            "decoder_input_ids": token,
        }
    grown = torch.cat([mask, torch.ones_like(token)], dim=1)
    return inputs | {"input_ids": token, "attention_mask": grown}


def _layers(states: Any) -> list[Any]:
    """The layers of a cache; an encoder-decoder's has two for each."""
    parts = ("self_attention_cache", "cross_attention_cache")
    return [
        layer for part in parts if hasattr(states, part) for layer in getattr(states, part).layers
    ] or list(states.layers)


def _states(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _freeze_cache(states: Any) -> None:
    """Let each layer of a cache forget what it is given as soon as it has handed it on.

    At once, not after the step: two caches in memory would be twice what generation needs.
    """
    for layer in _layers(states):
        # A class, not an attribute of the layer: that would be a cycle, and keep the cache alive.
        layer.__class__ = _frozen_layer_class(type(layer))


def _frozen_layer_class(kind: type[Any]) -> type[Any]:
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        found = kind.update(self, *args, **kwargs)
        vars(self).update(before)
        return found

    return type(f"Held{kind.__name__}", (kind,), {"update": update})


def _record_call(ran: dict[str, nn.Module], name: str, module: nn.Module, args: Any) -> None:
    ran[name] = module
