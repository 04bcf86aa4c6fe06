"""Bottleneck adapters as a PEFT method; importing this module registers it with peft.

peft imports it (see `lightpeft.registration`) while modules of lightpeft may be half
imported: what needs them is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.errors import ModelError
from lightpeft.core.names import BOTTLENECK
from lightpeft.peft_methods.bottleneck_config import BottleneckConfig
from lightpeft.peft_methods.bottleneck_layer import NO_MERGE, BottleneckLayer

_PREFIX = "bottleneck_"


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """A model whose output projections have bottleneck adapters; peft makes it."""

    prefix = _PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def _prepare_adapter_config(self, config: BottleneckConfig, _: Any) -> BottleneckConfig:
        return config  # the names are those of the model, not of its type: `_prepare_model`

    def _prepare_model(self, config: BottleneckConfig, model: nn.Module) -> None:
        """Fill in which projections are wrapped, unless the config says so: it was attached before.

        Raises:
            ModelError: the model's architecture is not supported or it is none of transformers,
                or a name is no output projection of it.
        """
        from lightpeft.modeling.inspection import inspect_model
        from lightpeft.peft_methods.bottleneck_targets import resolve_targets

        if config.block_inputs is None:
            if not isinstance(model, PreTrainedModel):
                raise ModelError(
                    f"bottleneck adapters need a model of transformers, got {type(model).__name__}"
                )
            with _expose_base_layers(model):
                shape = inspect_model(model)
            resolved = resolve_targets(config, shape)
            config.target_modules = resolved.target_modules
            config.block_inputs = resolved.block_inputs

    def _create_and_replace(
        self,
        config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        pattern = get_pattern_key(config.rank_pattern.keys(), current_key)
        r = config.rank_pattern.get(pattern, config.r)
        path = (config.block_inputs or {}).get(current_key)
        if path is None and config.placement == "parallel":
            raise ModelError(f"BottleneckConfig.block_inputs lacks {current_key}; set it to None")
        block_input = None if path is None else self.model.get_submodule(path)
        if isinstance(target, BottleneckLayer):
            if block_input is not None:
                target.read_block_input(block_input)
            target.update_layer(adapter_name, r, config)
            return
        if not isinstance(target, nn.Linear | Conv1D):
            raise ModelError(
                f"{current_key} must be a linear to have a bottleneck adapter, "
                f"got {type(target).__name__}"
            )
        layer = BottleneckLayer(target, block_input)
        layer.update_layer(adapter_name, r, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **inputs: Any) -> Iterator[None]:
        # Other methods than LoRA lack this in peft, and ignore `adapter_names`.
        if inputs.get("adapter_names") is not None:
            raise ModelError(
                "bottleneck adapters can't be chosen by row with adapter_names; use set_adapter()"
            )
        yield

    def _check_merge_allowed(self) -> None:
        raise ModelError(NO_MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, **settings: Any) -> nn.Module:
        if not merge:
            for layer in _find_layers(self.model).values():
                layer.remove_hook()
        model: nn.Module = super()._unload_and_optionally_merge(merge=merge, **settings)
        return model


def _find_layers(model: nn.Module) -> dict[str, BottleneckLayer]:
    return {name: x for name, x in model.named_modules() if isinstance(x, BottleneckLayer)}


@contextmanager
def _expose_base_layers(model: nn.Module) -> Iterator[None]:
    """Show a model without its adapters."""
    layers = _find_layers(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer.base_layer)
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def _register() -> None:
    # Plain strings: peft's enum of types can't be extended, but is only compared and looked up.
    for mapping, value in (
        (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, _PREFIX),
    ):
        mapping[BOTTLENECK] = value


_register()
