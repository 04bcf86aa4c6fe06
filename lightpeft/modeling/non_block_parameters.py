"""What a model holds outside its blocks: embeddings, norms, and the head."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.modeling.families import EMBEDDING_PARTS, ROW_PARTS, TOKEN_HEADS
from lightpeft.modeling.fingerprint import sizes

_MULTIPLYING = (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Heads that a task starts from fresh weights; other classes with a head were pretrained with it.
_ONCE_A_ROW = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForMultipleChoice",
)
_EVERY_TOKEN = ("ForTokenClassification", "ForQuestionAnswering")


def others(model: PreTrainedModel, counted: Set[str]) -> dict[str, int]:
    """Count the parameters that are not `counted`, each once, by what they are."""
    found = {"embeddings": 0, "norms": 0, "head": 0}
    owners: dict[int, list[str]] = {}
    counts: dict[int, int] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        if name not in counted and owner not in counted:
            owners.setdefault(id(weight), []).append(owner)
            counts[id(weight)] = _count(model.get_submodule(owner), weight)
    for key, names in owners.items():
        kinds = {_kind(model, name) for name in names}
        # A weight that an embedding and a head share is the embedding's.
        kind = next(kind for kind in ("embeddings", "norms", "head") if kind in kinds)
        found[kind] += counts[key]
    return found


def products(model: PreTrainedModel, counted: Set[str]) -> dict[str, int]:
    """Weights outside the blocks that multiply, by when: see `ModelShape.products`."""
    found = {"embeddings": 0, "row": 0, "token": 0, "lm": 0}
    for name, module in model.named_modules():
        if isinstance(module, _MULTIPLYING) and name not in counted:
            kind = _kind(model, name)
            when = "embeddings" if kind == "embeddings" else _when(type(model).__name__, name)
            weights = module.parameters(recurse=False) if when == "row" else [module.weight]
            found[when] += sum(_count(module, weight) for weight in weights)
    return found


def _count(owner: nn.Module, weight: Tensor) -> int:
    """Values that a weight stands for, also where it is quantized and several share a byte."""
    if isinstance(owner, nn.Linear) and weight is owner.weight:
        inputs, outputs = sizes(owner)
        return inputs * outputs
    return weight.numel()


def _kind(model: PreTrainedModel, owner: str) -> str:
    module = model.get_submodule(owner)
    if type(module).__name__.endswith("Norm"):
        return "norms"
    if isinstance(module, nn.Embedding) or any(part in owner for part in EMBEDDING_PARTS):
        return "embeddings"
    return "head"


def _when(model_class: str, name: str) -> str:
    if any(part in name for part in ROW_PARTS):
        return "row"
    if model_class.endswith(_ONCE_A_ROW):
        return "token" if name in TOKEN_HEADS else "row"
    return "token" if model_class.endswith(_EVERY_TOKEN) else "lm"
