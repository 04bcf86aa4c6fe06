"""LoRA, as estimation and pruning see it."""

from __future__ import annotations

import copy
import math
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.adapters import make_regex_alternation
from lightpeft.modeling.peft_targets import find_block_targets
from lightpeft.peft_methods.method import LayerParts


class Lora:
    """LoRA on linears of the blocks; see `PeftMethod`."""

    layer_class = LoraLayer
    fixed_settings = ("lora_alpha", "use_rslora", "lora_dropout")

    def name_targets(
        self, config: LoraConfig, model: PreTrainedModel, shape: ModelShape
    ) -> LoraConfig:
        """Return a copy that names its linears in full."""
        resolved = copy.deepcopy(config)
        names = find_block_targets(shape, config.target_modules)
        resolved.target_modules = make_regex_alternation(names)
        resolved.exclude_modules = None
        resolved.fan_in_fan_out = any(isinstance(model.get_submodule(n), Conv1D) for n in names)
        return resolved

    def set_modules(self, config: LoraConfig, plan: PruningPlan, ranks: dict[str, int]) -> None:
        """Keep the scaling of each module.

        It is ``lora_alpha / r``, and stays that of the original rank: pruning a rank removes one
        term of ``B @ A`` and leaves the others as they are.
        """
        scaling = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        config.alpha_pattern = {
            key: scaling * (math.sqrt(rank) if config.use_rslora else rank)
            for key, rank in config.rank_pattern.items()
        }

    def set_full_modules(self, config: LoraConfig, plan: PruningPlan, names: list[str]) -> None:
        """Name the targets so that peft takes them literally, also on a model with experts.

        There it reads a regex, and any name that ends in `gate_proj`, as the experts' fused
        weights; the path of one parameter it takes as that parameter.
        """
        config.alpha_pattern = {}
        if not plan.shape.num_moe_layers:
            return
        dense = [name for name in names if plan.shape.block_of[name].path in plan.shape.neurons]
        config.target_modules = [name for name in names if name not in dense]
        if dense:
            config.target_parameters = [f"{name}.weight" for name in dense]
            config.lora_dropout = 0.0

    def get_parts(self, layer: Any) -> LayerParts:
        """Compare with the output of the linear; ranks are rows of A, or columns of B: the same.

        The layer of DoRA's magnitudes returns all that the module adds, scaling included.
        """
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        is_dora = layer.use_dora["default"]
        return LayerParts(
            last=layer.lora_magnitude_vector["default"] if is_dora else b,
            scaling=1.0 if is_dora else layer.scaling["default"],
            reference=layer.base_layer,
            takes_input=False,
            weight=a.weight,
            is_transposed=False,
            widths=(a.weight.shape[1], b.weight.shape[0]),
        )
