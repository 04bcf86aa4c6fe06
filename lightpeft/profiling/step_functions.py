"""Make training and inference steps, as functions that can be timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lightpeft.modeling.adapters import cast_trainable_to_float32
from lightpeft.modeling.checkpointing import enable_checkpointing
from lightpeft.profiling.random_batches import drop_labels, find_model_kind
from lightpeft.profiling.settings import TrainingSettings

Step = Callable[[], Any]


def make_training_step(
    model: PeftModel,
    batch: Mapping[str, Tensor],
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008  # frozen
) -> Step:
    """Return a function that runs forward, backward and AdamW; sets training mode.

    Trainable weights are cast to float32, as in fine-tuning, unless `settings.masters` says
    bfloat16; then there is no autocast either, since frozen and trained weights have one dtype.
    """
    trainable = cast_trainable_to_float32(model)
    in_bfloat16 = settings.masters == "bfloat16"
    for weight in trainable if in_bfloat16 else ():
        weight.data = weight.data.bfloat16()
    optimizer = _make_optimizer(trainable, settings.optimizer)
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    # Generative models would fill a KV cache that training never reads.
    options = {"use_cache": False} if find_model_kind(model) in ("decoder", "seq2seq") else {}
    model.train()
    autocast = choose_autocast(model)

    def step() -> None:
        with autocast():
            loss = model(**batch, **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_inference_step(model: PeftModel, batch: Mapping[str, Tensor]) -> Step:
    """Return a function that runs forward without gradients and labels; sets evaluation mode."""
    inputs = drop_labels(batch)
    model.eval()
    autocast = choose_autocast(model)

    def step() -> None:
        with torch.inference_mode(), autocast():
            model(**inputs)

    return step


def _make_optimizer(weights: Iterable[nn.Parameter], name: str) -> torch.optim.Optimizer:
    """Return AdamW that leaves the weights as they are; a step takes the same time as any other."""
    if name == "adamw":
        return torch.optim.AdamW(weights, lr=0.0, fused=True)
    optimizer: torch.optim.Optimizer = import_module("bitsandbytes.optim").AdamW8bit(
        weights, lr=0.0
    )
    return optimizer


def choose_autocast(
    model: nn.Module,
) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Return what makes autocast, as in fine-tuning, where 16-bit weights have float32 adapters.

    A model of one dtype, such as a merged one, needs none.
    """
    weights = list(model.parameters())
    dtype, device = weights[0].dtype, weights[0].device
    if {weight.dtype for weight in weights} == {dtype} or dtype == torch.float32:
        return contextlib.nullcontext
    return partial(torch.autocast, device.type, dtype=dtype)
