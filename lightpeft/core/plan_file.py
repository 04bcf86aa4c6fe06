"""The layout of plan.json: the types of its values, and indices of units as ranges."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from lightpeft.core.block_shape import Size
from lightpeft.core.errors import PlanError
from lightpeft.core.shape import ModelShape

# Units and ranks in a plan.json, so that reading it takes bounded memory. A model of 405 billion
# parameters has 7 million.
MAX_UNITS = 2**24


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UnitsInFile(_Record):
    """`KeptUnits` with the kept ones as text."""

    total: Size
    kept: str
    reason: str


class PlanInFile(_Record):
    """What plan.json holds; see `PruningPlan`."""

    format: str
    digest: str
    fingerprint: str
    scores: str
    settings: dict[str, Any]
    notes: tuple[str, ...]
    heads: dict[str, UnitsInFile]
    neurons: dict[str, UnitsInFile]
    ranks: dict[str, UnitsInFile]
    shape: ModelShape


PLAN_FILE = TypeAdapter(PlanInFile)


def format_ranges(units: tuple[int, ...]) -> str:
    """Write ascending units as text: (0, 1, 2, 5) is `0-2,5`."""
    ranges: list[list[int]] = []
    for unit in units:
        if ranges and unit == ranges[-1][1] + 1:
            ranges[-1][1] = unit
        else:
            ranges.append([unit, unit])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def parse_ranges(text: str, total: int) -> tuple[int, ...]:
    """Parse what `format_ranges` wrote; a range is checked before it is expanded."""
    units: list[int] = []
    for bounds in filter(None, text.split(",")):
        first, _, last = bounds.partition("-")
        start, end = int(first), int(last or first)
        if not (units[-1] if units else -1) < start <= end < total:
            raise PlanError(f"kept units must be from 0 to {total - 1} and ascend, got {bounds!r}")
        units.extend(range(start, end + 1))
    return tuple(units)
