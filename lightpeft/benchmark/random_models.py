"""Models of a named shape with random weights, made where they are to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

from lightpeft.benchmark.model_sizes import MODEL_SIZES, check_model_size
from lightpeft.core.errors import ModelError

# Kind of a shape -> the class that builds it and peft's name of its task.
MODEL_CLASSES = {
    "encoder": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "decoder": (AutoModelForCausalLM, "CAUSAL_LM"),
    "seq2seq": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "image": (AutoModelForImageClassification, None),  # peft has no name for it
}
_MEMORY = Path("/proc/meminfo")


def make_config(name: str) -> Any:
    """The config of a named shape.

    Raises:
        ModelError: there is no shape of this name.
    """
    check_model_size(name)
    return AutoConfig.for_model(**MODEL_SIZES[name].sizes)


def build_random_model(
    name: str, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> PreTrainedModel:
    """A model of a named shape, its weights random and the same for a seed.

    It is made on the device and in the dtype, each weight written once and never copied.

    Raises:
        ModelError: there is no shape of this name.
    """
    config = make_config(name)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        # Left out is what costs time; constructors go on to make norms, buffers and rotary tables.
        with no_init_weights():
            model: PreTrainedModel = MODEL_CLASSES[MODEL_SIZES[name].kind][0].from_config(
                config, dtype=dtype
            )
        model.tie_weights()
        _init_weights(model)
    return model


def check_free_memory(name: str, *, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a shape of which two models, unpruned and pruned, can't be on the device at once.

    While the second is built it is unpruned too. Batches and activations come on top of that and
    are not foreseen.

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
    """Bytes that can still be allocated, by CUDA or the Linux kernel; None where none says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MEMORY.exists():
        return None
    lines = _MEMORY.read_text(encoding="utf-8").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


@torch.no_grad()
def _init_weights(model: PreTrainedModel) -> None:
    """Fill what the constructors of torch's own modules leave open: normal, norms 1, biases 0."""
    seen: set[int] = set()  # tied weights have two owners
    for module in model.modules():
        if not hasattr(module, "reset_parameters"):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            if weight.dim() > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_(float(name == "weight"))
