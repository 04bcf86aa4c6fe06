"""Make training and inference steps, as functions that can be timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from lightpeft.modeling.adapters import cast_trainable_to_float32
from lightpeft.profiling.random_batches import drop_labels, find_model_kind

Step = Callable[[], Any]


def make_training_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that runs forward, backward and AdamW; sets training mode.

    Trainable weights are cast to float32, as in fine-tuning.
    """
    trainable = cast_trainable_to_float32(model)
    # lr 0 leaves the weights as they are; a step takes the same time as with any other.
    optimizer = torch.optim.AdamW(trainable, lr=0.0, fused=True)
    # Generative models would fill a KV cache that training never reads.
    options = {"use_cache": False} if find_model_kind(model) in ("decoder", "seq2seq") else {}
    model.train()

    def step() -> None:
        with make_autocast(model):
            loss = model(**batch, **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_inference_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that runs forward without gradients and labels; sets evaluation mode."""
    inputs = drop_labels(batch)
    model.eval()

    def step() -> None:
        with torch.inference_mode(), make_autocast(model):
            model(**inputs)

    return step


def make_autocast(model: PeftModel) -> contextlib.AbstractContextManager[object]:
    """Return autocast for 16-bit weights, as in fine-tuning: adapters are float32 there."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)
