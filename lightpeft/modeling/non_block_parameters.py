"""Count what a model has outside its blocks: embeddings, norms, and the head."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.modeling.families import EMBEDDING_PARTS, ROW_PARTS, TOKEN_HEADS
from lightpeft.modeling.fingerprint import get_in_out_features

_MATMUL_MODULES = (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Heads that start from new weights; classes with any other head were pretrained with it.
_APPLIED_PER_SEQUENCE = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForMultipleChoice",
)
_APPLIED_PER_TOKEN = ("ForTokenClassification", "ForQuestionAnswering")


def count_non_block_parameters(
    model: PreTrainedModel, block_parameters: Set[str], *, prefix: str = ""
) -> dict[str, int]:
    """Return the number of parameters outside the blocks, each counted once.

    Args:
        model: as it is.
        block_parameters: names of parameters, and paths of modules, that are of blocks.
        prefix: of the names of the parameters to count.

    Returns:
        Counts of `embeddings`, `norms` and `head`. A weight that an embedding and a head share is
        the embedding's.
    """
    counts = {"embeddings": 0, "norms": 0, "head": 0}
    candidates: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        is_outside = name not in block_parameters and owner not in block_parameters
        if is_outside and name.startswith(prefix):
            candidates.setdefault(id(weight), set()).add(_find_part(model, owner))
            sizes[id(weight)] = _count_unpacked_values(model.get_submodule(owner), weight)
    for weight_id, parts in candidates.items():
        counts[next(part for part in counts if part in parts)] += sizes[weight_id]
    return counts


def count_matmul_weights(
    model: PreTrainedModel, block_parameters: Set[str], *, prefix: str = ""
) -> dict[str, int]:
    """Return the weights outside the blocks that are multiplied, see `ModelShape`.

    Args:
        model: as it is.
        block_parameters: as in `count_non_block_parameters`.
        prefix: of the paths of the modules to count.
    """
    counts = {"embeddings": 0, "row": 0, "token": 0, "lm": 0}
    for name, module in model.named_modules():
        if not isinstance(module, _MATMUL_MODULES) or not name.startswith(prefix):
            continue
        if name not in block_parameters:
            is_embedding = _find_part(model, name) == "embeddings"
            key = "embeddings" if is_embedding else _find_head_unit(type(model).__name__, name)
            weights = module.parameters(recurse=False) if key == "row" else [module.weight]
            counts[key] += sum(_count_unpacked_values(module, weight) for weight in weights)
    return counts


def _count_unpacked_values(owner: nn.Module, weight: Tensor) -> int:
    """Return the values of a weight, also where it is quantized and several share a byte."""
    if isinstance(owner, nn.Linear) and weight is owner.weight:
        inputs, outputs = get_in_out_features(owner)
        return inputs * outputs
    return weight.numel()


def _find_part(model: PreTrainedModel, owner: str) -> str:
    """Return the part of the model that a module outside the blocks is counted under."""
    module = model.get_submodule(owner)
    if type(module).__name__.endswith("Norm"):
        return "norms"
    if isinstance(module, nn.Embedding) or any(part in owner for part in EMBEDDING_PARTS):
        return "embeddings"
    return "head"


def _find_head_unit(model_class: str, name: str) -> str:
    """Return `row` for a head on one token per row, `token` on every one, `lm` if pretrained."""
    if any(part in name for part in ROW_PARTS):
        return "row"
    if model_class.endswith(_APPLIED_PER_SEQUENCE):
        return "token" if name in TOKEN_HEADS else "row"
    return "token" if model_class.endswith(_APPLIED_PER_TOKEN) else "lm"
