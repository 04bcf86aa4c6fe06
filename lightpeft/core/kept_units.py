"""The units that a block, a PEFT module or a stack of layers keeps, and their form in plan.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from lightpeft.core.block_shape import Size
from lightpeft.core.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class KeptUnits:
    """What one block, PEFT module or stack of layers keeps; indices are of the unpruned model.

    Attributes:
        total: units before pruning.
        kept: indices of the units kept, ascending.
        reason: for a reader, why these.
    """

    total: int
    kept: tuple[int, ...]
    reason: str

    def __post_init__(self) -> None:
        if list(self.kept) != sorted(set(self.kept)):
            raise PlanError(f"kept units must ascend without repeats, got {self.kept}")
        if self.kept and not 0 <= self.kept[0] <= self.kept[-1] < self.total:
            raise PlanError(f"kept units must be from 0 to {self.total - 1}, got {self.kept}")

    @property
    def is_complete(self) -> bool:
        """Whether every unit is kept."""
        return len(self.kept) == self.total


class UnitsInFile(BaseModel):
    """`KeptUnits` with the kept ones as text."""

    model_config = ConfigDict(extra="forbid")
    total: Size
    kept: str
    reason: str


def format_fraction(units: Iterable[KeptUnits]) -> str:
    """Return how many of all units are kept, as text: `6 of 8`."""
    sizes = [(len(x.kept), x.total) for x in units]
    return f"{sum(kept for kept, _ in sizes):,} of {sum(total for _, total in sizes):,}"


def serialize_units(units: Mapping[str, KeptUnits]) -> dict[str, dict[str, Any]]:
    """Return values for JSON, with ranges of units as `0-4,7`."""
    return {  # asdict would copy each index
        path: {"total": x.total, "kept": format_ranges(x.kept), "reason": x.reason}
        for path, x in units.items()
    }


def expand_ranges(units: Mapping[str, UnitsInFile]) -> dict[str, KeptUnits]:
    """Return the units that a file lists as ranges."""
    return {
        path: KeptUnits(total=x.total, kept=parse_ranges(x.kept, x.total), reason=x.reason)
        for path, x in units.items()
    }


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
