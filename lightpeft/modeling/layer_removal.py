"""Remove whole layers of a model, or skip them as if they were removed."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lightpeft.core.errors import PlanError
from lightpeft.core.plan import PruningPlan
from lightpeft.modeling.families import DEPTHS, LAYER_NUMBERS
from lightpeft.modeling.stock_config import list_shapes, replace_configs


def remove_layers(model: PreTrainedModel, plan: PruningPlan) -> None:
    """Remove the layers that a plan prunes, and number the others anew.

    The KV cache and the masks of a model go by the numbers of its layers, and by the number and
    kinds of layers in its config, which therefore is replaced by another one.

    Raises:
        PlanError: the class of the model does not build these layers from the new config; the
            model has lost its layers then.
    """
    for path, kept in plan.kept_layers.items():
        stack = model.get_submodule(path)
        assert isinstance(stack, nn.ModuleList)
        total = len(stack)
        layers = [stack[index] for index in kept]
        for new, (old, layer) in enumerate(zip(kept, layers, strict=True)):
            _renumber(layer, old, new)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.ModuleList(layers))
        _shorten_configs(model, path, kept, total)
    if plan.kept_layers:
        _check_stock_layers(model, plan)


def skip_layers(model: PreTrainedModel, plan: PruningPlan) -> ExitStack:
    """Pass what enters the layers that a plan prunes on to the next ones; a context manager."""
    hooks = ExitStack()
    for path, kept in plan.kept_layers.items():
        for index, layer in enumerate(model.get_submodule(path).children()):
            if index not in kept:
                hook = layer.register_forward_hook(_pass_input_on, with_kwargs=True)
                hooks.callback(hook.remove)
    return hooks


def get_hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what enters a layer, from the arguments of its `forward`."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _pass_input_on(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    hidden = get_hidden_states(args, kwargs)
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def _renumber(layer: nn.Module, old: int, new: int) -> None:
    for module in layer.modules():
        for name in LAYER_NUMBERS:
            if getattr(module, name, None) == old:
                setattr(module, name, new)


def _shorten_configs(model: PreTrainedModel, stack: str, kept: Sequence[int], total: int) -> None:
    """Give a model configs with fewer layers in one stack, also in lists of all layers.

    These are the config of the stack's owner, and that of a whole encoder-decoder.
    """
    parts = stack.split(".")
    owners = [model.get_submodule(".".join(parts[:n])) for n in range(len(parts))]
    configs = [x.config for x in owners if isinstance(getattr(x, "config", None), PreTrainedConfig)]
    copies: dict[int, Any] = {}
    for config in configs:
        new = copy.deepcopy(config, copies)
        if config is configs[-1] or getattr(config, "is_encoder_decoder", False):
            _shorten(new, stack, kept, total)
    replace_configs(model, copies)


def _shorten(config: PreTrainedConfig, stack: str, kept: Sequence[int], total: int) -> None:
    values = dict(vars(config))
    names = [k for k, v in values.items() if re.fullmatch(DEPTHS, k) and v == total]
    if getattr(config, "is_encoder_decoder", False):
        of_decoder = [name for name in names if "decoder" in name]
        names = of_decoder if ".decoder." in f".{stack}." else [*{*names} - {*of_decoder}]
    for name in names:
        setattr(config, name, len(kept))
    for name, value in values.items():
        if isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(config, name, [value[index] for index in kept])


def _check_stock_layers(model: PreTrainedModel, plan: PruningPlan) -> None:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            stock = type(model)(copy.deepcopy(model.config))
    except Exception as error:  # whatever a constructor finds wrong with the numbers
        raise _make_error(plan, " ".join(str(error).split())[:150]) from error
    for path in plan.kept_layers:
        if list_shapes(stock.get_submodule(path)) != list_shapes(model.get_submodule(path)):
            raise _make_error(plan, f"its config gives {path} other layers than are left")


def _make_error(plan: PruningPlan, reason: str) -> PlanError:
    return PlanError(f"these layers of this {plan.shape.model_type} can't be pruned: {reason}")
