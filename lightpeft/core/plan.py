"""Which units stay: one decision, made once, in a readable plan.json."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightpeft.core.errors import PlanError
from lightpeft.core.scores import shape_from_json, shape_to_json
from lightpeft.core.serialization import read_json, write_json
from lightpeft.core.shape import ModelShape

_FORMAT = "lightpeft-plan-2"


@dataclass(frozen=True, kw_only=True)
class KeptUnits:
    """Units one block or PEFT module keeps; indices refer to the unpruned model."""

    total: int
    kept: tuple[int, ...]
    reason: str

    def __post_init__(self) -> None:
        if list(self.kept) != sorted(set(self.kept)):
            raise PlanError(f"kept units must ascend without repeats, got {self.kept}")
        if self.kept and not 0 <= self.kept[0] <= self.kept[-1] < self.total:
            raise PlanError(f"kept units must be from 0 to {self.total - 1}, got {self.kept}")


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """What one method keeps, made once and followed everywhere.

    Attributes:
        shape: of the unpruned model.
        fingerprint: of the unpruned model's weights; `quantized-` leads where they were packed.
        scores: digest of the scores that the plan was made from.
        settings: ratios, criterion, scope, alignment and seed.
        heads: attention block path -> query heads kept, equally many in every KV group that keeps
            any. None: the block is emptied, with no PEFT module on the linear that reads it.
        neurons: feed-forward block path -> neurons kept, or none as above.
        ranks: path of the linear under a PEFT module -> ranks kept; none: the module goes.
        notes: what did not go as the ratios say, and why.
    """

    shape: ModelShape
    fingerprint: str
    scores: str
    settings: dict[str, Any]
    heads: dict[str, KeptUnits]
    neurons: dict[str, KeptUnits]
    ranks: dict[str, KeptUnits]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, cuts, totals in (
            ("head", self.heads, self.shape.heads),
            ("neuron", self.neurons, self.shape.neurons),
        ):
            if {block: cut.total for block, cut in cuts.items()} != totals:
                raise PlanError(f"the plan's {name}s are not those of its model shape")
            for block, cut in cuts.items():
                reader = self.shape.readers.get(block, "")
                if not cut.kept and reader in self.ranks and self.ranks[reader].kept:
                    raise PlanError(
                        f"{block} keeps no {name}, but the plan keeps a PEFT module on {reader}, "
                        f"which would revive it"
                    )
        for block in self.heads:
            self._check_groups(block)
        unknown = sorted(set(self.ranks) - set(self.shape.linears))
        if unknown:
            raise PlanError(f"the plan's PEFT module {unknown[0]} is no linear of its model shape")
        if not any(cut.kept for cut in self.ranks.values()):
            raise PlanError("the plan keeps no PEFT module: nothing would be trained")

    def _check_groups(self, block: str) -> None:
        sizes = self._group_sizes(block)
        if len(set(sizes)) > 1:
            raise PlanError(
                f"{block} keeps {', '.join(map(str, sizes))} query heads of its KV groups: "
                f"every group that stays must keep as many"
            )

    def _group_sizes(self, block: str) -> list[int]:
        """Query heads that each KV group keeps, of those that keep any."""
        sharing = self.shape.sharing.get(block, 1)
        return [*Counter(head // sharing for head in self.heads[block].kept).values()]

    def remaining_units(self, block: str) -> tuple[int, ...]:
        """Units that a block really has afterwards: an emptied one keeps the first, unread."""
        return (self.heads.get(block) or self.neurons[block]).kept or (0,)

    def num_kv_groups(self, block: str) -> int:
        """KV groups that an attention block has afterwards."""
        return len(self._group_sizes(block)) or 1

    def counts(self) -> dict[str, dict[str, int]]:
        """What `lightpeft.planning.cost.cost` is told: units, KV groups and ranks that are left."""
        return {
            "heads": {block: len(self.remaining_units(block)) for block in self.heads},
            "groups": {block: self.num_kv_groups(block) for block in self.heads},
            "neurons": {block: len(self.remaining_units(block)) for block in self.neurons},
            "ranks": {name: len(cut.kept) for name, cut in self.ranks.items()},
        }

    @property
    def keeps_base_intact(self) -> bool:
        """Whether the plan cuts no head and no neuron."""
        cuts = (*self.heads.values(), *self.neurons.values())
        return all(len(cut.kept) == cut.total for cut in cuts)

    @property
    def is_identity(self) -> bool:
        """Whether the plan cuts nothing."""
        return self.keeps_base_intact and all(len(c.kept) == c.total for c in self.ranks.values())

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything in the plan."""
        text = json.dumps(self._as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write plan.json; runs of units are written as `0-4,7`."""
        write_json(path, self._as_json())

    def _as_json(self) -> dict[str, Any]:
        groups = {
            group: {
                block: {"total": cut.total, "kept": _format_ranges(cut.kept), "reason": cut.reason}
                for block, cut in getattr(self, group).items()
            }
            for group in ("heads", "neurons", "ranks")
        }
        head = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "scores": self.scores,
            "settings": self.settings,
            "notes": list(self.notes),
        }
        return head | groups | {"shape": shape_to_json(self.shape)}

    @classmethod
    def load(cls, path: Path) -> PruningPlan:
        """Read plan.json.

        Raises:
            PlanError: the file is missing, cut short, not a plan, or contradicts itself.
        """
        raw = read_json(path, PlanError)
        if raw.get("format") != _FORMAT:
            raise PlanError(f"{path} is {raw.get('format')!r}, not a plan ({_FORMAT!r})")
        try:
            cuts = {
                group: {
                    block: KeptUnits(
                        total=cut["total"],
                        kept=_parse_ranges(cut["kept"], cut["total"]),
                        reason=cut["reason"],
                    )
                    for block, cut in raw[group].items()
                }
                for group in ("heads", "neurons", "ranks")
            }
            return cls(
                shape=shape_from_json(raw["shape"]),
                fingerprint=raw["fingerprint"],
                scores=raw["scores"],
                settings=raw["settings"],
                notes=tuple(raw["notes"]),
                **cuts,
            )
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{path} is not a plan: {error!r}") from None


def _format_ranges(units: tuple[int, ...]) -> str:
    """Ascending units as text: (0, 1, 2, 5) is `0-2,5`."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _parse_ranges(text: str, total: int) -> tuple[int, ...]:
    """Parse what `_format_ranges` wrote; bounds are checked before a range is expanded."""
    units: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        start, end = int(first), int(last or first)
        if not 0 <= start <= end < total:
            raise PlanError(f"kept units must be from 0 to {total - 1} and ascend, got {run!r}")
        units.extend(range(start, end + 1))
    return tuple(units)
