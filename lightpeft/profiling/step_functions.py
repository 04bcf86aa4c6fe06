"""Training and inference steps, as calls that can be timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from lightpeft.profiling.random_batches import SPAN_LABELS, model_kind

Step = Callable[[], Any]


def make_training_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Forward, backward and AdamW on what is trainable, as one call; sets training mode."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for weight in trained:
        # As in fine-tuning: what is trained keeps float32, whatever the frozen base has.
        weight.data = weight.data.float()
    # lr 0 leaves the weights as they are; it takes the same time as any other.
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    # What generates would fill a KV cache that training never reads.
    settings = {"use_cache": False} if model_kind(model) in ("decoder", "seq2seq") else {}
    model.train()

    def step() -> None:
        with autocast_for(model):
            loss = model(**batch, **settings).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_inference_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """A forward pass without gradients and labels, as one call; sets evaluation mode."""
    inputs = {
        name: tensor for name, tensor in batch.items() if name not in ("labels", *SPAN_LABELS)
    }
    model.eval()

    def step() -> None:
        with torch.inference_mode(), autocast_for(model):
            model(**inputs)

    return step


def autocast_for(model: PeftModel) -> contextlib.AbstractContextManager[object]:
    """Autocast for 16-bit weights, as in fine-tuning: peft keeps adapters in float32 there."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)
