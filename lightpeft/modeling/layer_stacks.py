"""Find the stacks of layers of a model, and which of their layers can be pruned whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightpeft.core.block_shape import Block, find_stack
from lightpeft.core.layers import LayerStack
from lightpeft.modeling.families import KV_SHARING, LAYER_NUMBER_SETTINGS
from lightpeft.modeling.fingerprint import get_in_out_features
from lightpeft.modeling.non_block_parameters import (
    count_matmul_weights,
    count_non_block_parameters,
)


def find_layer_stacks(
    model: PreTrainedModel,
    blocks: Iterable[Block],
    counted: Set[str],
    experts: Mapping[str, Tensor],
    *,
    reason: str = "",
) -> tuple[LayerStack, ...]:
    """Return the stacks that the blocks are in.

    The layers of a stack that can be pruned are those with weights of the same names and shapes,
    the largest group if there are several (T5's first layer has the position biases of all, and
    ModernBERT's has no norm).

    Args:
        model: as it is.
        blocks: of the model.
        counted: parameters, and paths of modules, that are of blocks, or experts or routers.
        experts: parameters of these.
        reason: why no layer of the model can be pruned, if something else showed it.
    """
    reason = reason or _find_obstacle(model)
    return tuple(
        _describe_stack(model, path, counted, experts, reason)
        for path in dict.fromkeys(find_stack(block.path) for block in blocks)
    )


def _find_obstacle(model: PreTrainedModel) -> str:
    """Return why no layer of a model can go, or nothing."""
    config = model.config.get_text_config()
    if getattr(config, KV_SHARING, 0):
        return "its layers share keys and values"
    used = [name for name in LAYER_NUMBER_SETTINGS if getattr(config, name, False)]
    return f"its layers compute with their number ({used[0]})" if used else ""


def _describe_stack(
    model: PreTrainedModel,
    path: str,
    counted: Set[str],
    experts: Mapping[str, Tensor],
    obstacle: str,
) -> LayerStack:
    stack: Any = model.get_submodule(path)
    signatures = [_list_weights(layer) for layer in stack.children()]
    layers = len(signatures)
    commonest, count = Counter(signatures).most_common(1)[0]
    owners = Counter(id(weight) for layer in stack.children() for weight in set(layer.parameters()))
    if not obstacle and set(owners.values()) > {1}:
        obstacle = "its layers share weights"
    if not obstacle and not isinstance(stack, nn.ModuleList):
        obstacle = f"its layers are in a {type(stack).__name__}"
    if not obstacle and count < 2:
        several = "no two of its layers have weights of the same shapes"
        obstacle = several if layers > 1 else "it has only one layer"
    if obstacle:
        return LayerStack(path=path, layers=layers, reason=obstacle)
    prunable = tuple(index for index, weights in enumerate(signatures) if weights == commonest)
    prefix = f"{path}.{prunable[0]}."
    parameters = count_non_block_parameters(model, counted, prefix=prefix)
    if experts:
        sizes = (x.numel() for name, x in experts.items() if name.startswith(prefix))
        parameters["feed_forward"] = sum(sizes)
    return LayerStack(
        path=path,
        layers=layers,
        prunable=prunable,
        reason="" if count == layers else "their weights have other shapes than most layers'",
        non_block_parameters=parameters,
        matmul_weights=count_matmul_weights(model, counted, prefix=prefix),
    )


def _list_weights(layer: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return names and shapes of a layer's weights; of a quantized one what it unpacks to."""
    return tuple(
        (
            name,
            get_in_out_features(owner)
            if isinstance(owner := layer.get_submodule(name.rpartition(".")[0]), nn.Linear)
            and name.endswith("weight")
            else tuple(weight.shape),
        )
        for name, weight in layer.named_parameters()
    )
