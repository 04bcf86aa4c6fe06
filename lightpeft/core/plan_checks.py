"""Check the PEFT modules of a plan."""

from __future__ import annotations

from collections.abc import Mapping

from lightpeft.core.adapter_layout import LAYOUTS
from lightpeft.core.errors import PlanError
from lightpeft.core.kept_units import KeptUnits
from lightpeft.core.names import BOTTLENECK
from lightpeft.core.shape import ModelShape


def check_modules(peft_type: str, ranks: Mapping[str, KeptUnits], shape: ModelShape) -> None:
    """Check that the PEFT modules of a plan can be on these linears, and that it keeps one.

    Raises:
        PlanError: the method is unknown; no module is kept; or a linear is none of the model, or
            none that a bottleneck adapter can be on: it would mix heads, or neurons, after which
            a mask of one is no mask of what it computed.
    """
    if peft_type not in LAYOUTS:
        raise PlanError(f"the plan's PEFT method must be {' or '.join(LAYOUTS)}, got {peft_type!r}")
    if unknown := sorted({*ranks} - shape.linears.keys()):
        raise PlanError(f"the plan's PEFT module {unknown[0]} is no linear of its model shape")
    projections = {block.output_projection for block in shape.blocks}
    if peft_type == BOTTLENECK and (wrong := sorted({*ranks} - projections)):
        raise PlanError(f"a bottleneck adapter must be on an output projection, got {wrong[0]}")
    if not any(rank.kept for rank in ranks.values()):
        raise PlanError("the plan keeps no PEFT module: nothing would be trained")
