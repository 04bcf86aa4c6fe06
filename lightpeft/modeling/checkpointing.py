"""Activation checkpointing that leaves frozen layers without a graph."""

from __future__ import annotations

from typing import Any


def enable_checkpointing(model: Any) -> None:
    """Keep only what enters each layer, and compute the rest again in the backward pass.

    transformers also makes the output of the embeddings require gradients, which reentrant
    checkpoints need. Ours are not reentrant; with these gradients the layers below the lowest
    trained one would be computed again, and backward would run through them to the embeddings.

    Args:
        model: a transformers model, or a `PeftModel` of one.

    Raises:
        ValueError: its class does not support it.
    """
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()
