"""Build models of a published size with random weights, directly on their device."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from lightpeft.benchmark.model_sizes import MODEL_SIZES
from lightpeft.core.errors import ModelError

# Kind of model -> the class that builds it and peft's task type.
MODEL_CLASSES = {
    "encoder": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "decoder": (AutoModelForCausalLM, "CAUSAL_LM"),
    "seq2seq": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "image": (AutoModelForImageClassification, None),  # peft has no task type for it
}


def make_config(name: str) -> Any:
    """Make the configuration of a listed model.

    Raises:
        ModelError: no model of this name is listed; names those that are.
    """
    if name not in MODEL_SIZES:
        raise ModelError(f"no shape {name!r}; shapes: {', '.join(MODEL_SIZES)}")
    return AutoConfig.for_model(**MODEL_SIZES[name].sizes)


def build_random_model(
    name: str, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> PreTrainedModel:
    """Build a listed model with random weights, the same for the same seed.

    It is made on the device and in the dtype, each weight written once and never copied.

    Raises:
        ModelError: no model of this name is listed.
    """
    config = make_config(name)
    # Of all GPUs otherwise, on each of which that would start a CUDA context.
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(generators), torch.device(device):
        torch.manual_seed(seed)
        # Skips the slow initialization; constructors still make norms, buffers, rotary tables.
        with no_init_weights():
            model: PreTrainedModel = MODEL_CLASSES[MODEL_SIZES[name].kind][0].from_config(
                config, dtype=dtype
            )
        model.tie_weights()
        _init_weights(model)
    return model


def check_free_memory(name: str, *, dtype: torch.dtype, device: torch.device) -> None:
    """Check that the unpruned and the pruned model fit into the device's memory together.

    While the second is built it is unpruned too. Memory of batches and activations comes on top
    and is not estimated.

    Raises:
        ModelError: names what is needed and what is free, in GB of 1e9 bytes.
    """
    free = get_free_memory(device)
    if free is None:
        return
    model = build_random_model(name, dtype=dtype, device=torch.device("meta"))
    needed = 2 * sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if needed > free:
        raise ModelError(
            f"two models of {name} in {str(dtype).removeprefix('torch.')} need {needed / 1e9:.1f} "
            f"GB, but {device} has {free / 1e9:.1f} GB free; use a smaller --shape or --dtype"
        )


def get_free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a CPU or CUDA device; None elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available if device.type == "cpu" else None


@torch.no_grad()
def _init_weights(model: PreTrainedModel) -> None:
    """Initialize the weights of torch's own modules: normal, norms 1, biases 0."""
    for path, weight in model.named_parameters():
        owner, _, name = path.rpartition(".")
        if hasattr(model.get_submodule(owner), "reset_parameters"):
            if weight.dim() > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_(float(name == "weight"))
