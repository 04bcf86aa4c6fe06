"""The output projections that bottleneck adapters are attached to."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from lightpeft.core.block_shape import Block, FeedForwardBlock
from lightpeft.core.errors import ModelError, Term
from lightpeft.core.shape import ModelShape
from lightpeft.modeling.adapters import make_regex_alternation
from lightpeft.modeling.peft_targets import find_block_targets
from lightpeft.peft_methods.bottleneck_config import BottleneckConfig


def resolve_targets(config: BottleneckConfig, shape: ModelShape) -> BottleneckConfig:
    """Return a copy of the config that names its projections, and what parallel adapters read.

    Args:
        config: as the user gives it; not changed.
        shape: of the model.

    Raises:
        ModelError: the model has no block for the placement; a name is no output projection of
            one; or a block's input is not as wide as its output, which a parallel adapter needs.
    """
    everywhere = config.placement == "houlsby"
    blocks = [x for x in shape.blocks if everywhere or isinstance(x, FeedForwardBlock)]
    if not blocks:
        raise ModelError(
            f"this {shape.model_type} model has no dense feed-forward block for an adapter of "
            f"placement {config.placement!r}; {Term.USE_HOULSBY}"
        )
    projections = shape.select_linears({block.output_projection for block in blocks})
    names = find_block_targets(
        projections,
        config.target_modules,
        setting=Term.BOTTLENECK_TARGETS,
        kind="output projection",
    )
    resolved = copy.deepcopy(config)
    resolved.target_modules = make_regex_alternation(names)
    resolved.block_inputs = find_block_inputs(config, shape, names)
    return resolved


def find_block_inputs(
    config: BottleneckConfig, shape: ModelShape, names: Sequence[str]
) -> dict[str, str]:
    """Return output projection -> linear whose input its adapter reads, for parallel adapters.

    Raises:
        ModelError: a block's input is not as wide as its output.
    """
    if config.placement != "parallel":
        return {}
    return {name: _find_block_input(shape.block_of[name]) for name in names}


def _find_block_input(block: Block) -> str:
    """Return the path of the linear that reads what enters a block."""
    path, linear = next((p, x) for p, x in block.linears.items() if x.pruned_dim == "out")
    outputs = block.linears[block.output_projection].outputs
    if linear.inputs != outputs:
        raise ModelError(
            f"{block.path} turns {linear.inputs} numbers into {outputs}, but a parallel adapter "
            f"needs as many outputs as inputs; {Term.USE_ANOTHER_PLACEMENT}"
        )
    return path
