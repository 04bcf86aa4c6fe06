"""Bottleneck adapters, as estimation and pruning see them."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from lightpeft.core.plan import PruningPlan
from lightpeft.core.shape import ModelShape
from lightpeft.peft_methods.bottleneck_config import BottleneckConfig
from lightpeft.peft_methods.bottleneck_layer import BottleneckLayer
from lightpeft.peft_methods.bottleneck_targets import find_block_inputs, resolve_targets
from lightpeft.peft_methods.method import LayerParts


class Bottleneck:
    """Bottleneck adapters on output projections; see `PeftMethod`. A rank is a unit of one."""

    layer_class = BottleneckLayer
    fixed_settings = ("placement", "non_linearity", "scaling", "dropout")

    def name_targets(
        self, config: BottleneckConfig, model: PreTrainedModel, shape: ModelShape
    ) -> BottleneckConfig:
        """Return a copy that names its projections in full."""
        return resolve_targets(config, shape)

    def set_modules(
        self, config: BottleneckConfig, plan: PruningPlan, ranks: dict[str, int]
    ) -> None:
        """Say what parallel adapters read in the pruned model."""
        config.block_inputs = find_block_inputs(config, plan.without_layers.shape, [*ranks])

    def set_full_modules(
        self, config: BottleneckConfig, plan: PruningPlan, names: list[str]
    ) -> None:
        """Say what parallel adapters read in the unpruned model."""
        config.block_inputs = find_block_inputs(config, plan.shape, names)

    def get_parts(self, layer: Any) -> LayerParts:
        """Compare with what the adapter reads, and score units by the columns of the second matrix.

        Unit ``j`` adds ``U[:, j] f(z_j)``, so that scaling the column by ``1 - e`` is removing a
        part ``e`` of it, whatever ``f`` is. Scaling row and bias of the first matrix is the same
        only where ``f(c z) = c f(z)``, as of ReLU.
        """
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        return LayerParts(
            last=up,
            scaling=layer.scaling["default"],
            reference=down,
            takes_input=True,
            weight=up.weight,
            is_transposed=True,
            widths=(down.in_features, up.out_features),
        )
