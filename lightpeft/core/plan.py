"""The decision which units are kept, made once and stored in a readable plan.json."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightpeft.core.block_shape import Block, find_layer
from lightpeft.core.errors import PlanError, escape_unprintable
from lightpeft.core.kept_units import KeptUnits, expand_ranges, format_fraction, serialize_units
from lightpeft.core.layers import KeptLayers, drop_layers, find_new_path
from lightpeft.core.names import LORA
from lightpeft.core.plan_checks import check_modules
from lightpeft.core.plan_file import MAX_UNITS, PLAN_FILE
from lightpeft.core.reading import REMEDY, check_format, parse_as, read_json
from lightpeft.core.serialization import write_json
from lightpeft.core.shape import ModelShape, UnitCounts
from lightpeft.core.text_table import align_columns

_FORMAT = "lightpeft-plan-5"
_GROUPS = ("layers", "heads", "neurons", "ranks")
NO_CRITERION = "none"  # in `settings`, of a plan that no score decides


@dataclass(frozen=True, kw_only=True, repr=False)
class PruningPlan:
    """What one method keeps of a model.

    Attributes:
        shape: of the unpruned model.
        fingerprint: of the unpruned model's weights; prefixed `quantized-` where they were packed.
        scores: digest of the scores that the plan was made from.
        settings: ratios, criterion, scope, alignment and seed.
        layers: stack of layers -> those kept; a stack that is not named keeps all.
        heads: attention block path -> query heads kept, equally many in every KV group that keeps
            any. None: the block is emptied, with no PEFT module on its output projection, or its
            layer is pruned.
        neurons: feed-forward block path -> neurons kept, or none as above.
        ranks: path of the linear under a PEFT module -> ranks kept; none: the module is removed.
        notes: where and why the plan differs from the ratios.
        peft_type: the PEFT method, as in adapter_config.json; DORA for LoRA with `use_dora`.

    Example:
        >>> plan = lightpeft.make_plan(scores, lightpeft.PruningConfig(heads=0.5, neurons=0))
        >>> print(plan.summary())  # doctest: +ELLIPSIS
        layer ... heads ... neurons ... PEFT modules ... ranks
        ...
        parameters ... -> ...
        >>> plan.save(folder / "plan.json")
        >>> lightpeft.PruningPlan.load(folder / "plan.json") == plan
        True
    """

    shape: ModelShape
    fingerprint: str
    scores: str
    settings: dict[str, Any]
    heads: dict[str, KeptUnits]
    neurons: dict[str, KeptUnits]
    ranks: dict[str, KeptUnits]
    notes: tuple[str, ...]
    layers: dict[str, KeptUnits] = field(default_factory=dict)
    peft_type: str = LORA

    def __post_init__(self) -> None:
        for name, blocks, totals in (
            ("head", self.heads, self.shape.heads),
            ("neuron", self.neurons, self.shape.neurons),
        ):
            if {path: units.total for path, units in blocks.items()} != totals:
                raise PlanError(f"the plan's {name}s are not those of its model shape")
        self._check_layers()
        for block in self.shape.blocks:
            self._check_block(block)
        check_modules(self.peft_type, self.ranks, self.shape)

    def _check_layers(self) -> None:
        stacks = {stack.path: stack for stack in self.shape.stacks}
        for path, layers in self.layers.items():
            if path not in stacks or layers.total != stacks[path].layers:
                raise PlanError(f"the plan's layers of {path} are not those of its model shape")
            prunable = set(stacks[path].prunable)
            if wrong := set(range(layers.total)) - set(layers.kept) - prunable:
                raise PlanError(f"{path}.{min(wrong)} can't be pruned: {stacks[path].reason}")
        for block in self.shape.blocks:
            paths = [path for path in block.linears if path in self.ranks]
            units = [self.units[block.path], *(self.ranks[path] for path in paths)]
            if find_new_path(block.path, self.kept_layers) is None and any(x.kept for x in units):
                raise PlanError(f"the plan prunes the layer of {block.path}, but keeps some of it")

    def _check_block(self, block: Block) -> None:
        adapter = self.ranks.get(block.output_projection)
        if not self.units[block.path].kept and adapter and adapter.kept:
            name = "head" if block.path in self.heads else "neuron"
            raise PlanError(
                f"{block.path} keeps no {name}, but the plan keeps a PEFT module on "
                f"{block.output_projection}, which would revive it"
            )
        if len(set(sizes := self._count_heads_per_kv_group(block))) > 1:
            raise PlanError(
                f"{block.path} keeps {', '.join(map(str, sizes))} query heads of its KV groups: "
                f"all kept KV groups must keep the same number of query heads"
            )

    def _count_heads_per_kv_group(self, block: Block) -> list[int]:
        """Return how many query heads each KV group keeps, of those that keep any."""
        kept = self.units[block.path].kept if block.path in self.heads else ()
        return [*Counter(head // block.heads_per_kv_group for head in kept).values()]

    def __repr__(self) -> str:
        modules = [rank for rank in self.ranks.values() if rank.kept]
        pruned = self.kept_layers and f"{format_fraction(self.layers.values())} layers, "
        return (
            f"PruningPlan({self.shape.model_type}: {pruned or ''}"
            f"{format_fraction(self.heads.values())} heads, "
            f"{format_fraction(self.neurons.values())} neurons, "
            f"{len(modules)} of {len(self.ranks)} PEFT modules, "
            f"{format_fraction(self.ranks.values())} ranks)"
        )

    @cached_property
    def units(self) -> dict[str, KeptUnits]:
        """Block path -> heads or neurons kept."""
        return self.heads | self.neurons

    def list_remaining_units(self, block: str) -> tuple[int, ...]:
        """Return the units a block has after pruning: an emptied one keeps its first, unread."""
        return self.units[block].kept or (0,)

    @property
    def kept_layers(self) -> KeptLayers:
        """Stack -> layers kept, of the stacks that lose layers."""
        return {path: x.kept for path, x in self.layers.items() if not x.is_complete}

    @cached_property
    def without_layers(self) -> PruningPlan:
        """The same pruning of what remains once the layers are gone, whose paths are new ones."""
        kept = self.kept_layers
        if not kept:
            return self

        def rename(units: Mapping[str, KeptUnits]) -> dict[str, KeptUnits]:
            paths = {path: find_new_path(path, kept) for path in units}
            return {new: units[old] for old, new in paths.items() if new is not None}

        return replace(
            self,
            shape=drop_layers(self.shape, kept),
            layers={},
            heads=rename(self.heads),
            neurons=rename(self.neurons),
            ranks=rename(self.ranks),
        )

    @cached_property
    def old_paths(self) -> dict[str, str]:
        """Path of a linear in the pruned model -> its path in the unpruned one."""
        new = {path: find_new_path(path, self.kept_layers) for path in self.shape.linears}
        return {path: old for old, path in new.items() if path is not None}

    @cached_property
    def counts(self) -> UnitCounts:
        """Units, KV groups and ranks of the pruned model; see `without_layers`."""
        return UnitCounts(
            units={path: len(self.list_remaining_units(path)) for path in self.units},
            ranks={path: len(rank.kept) for path, rank in self.ranks.items()},
            peft_type=self.peft_type,
            kv_groups={
                block.path: len(self._count_heads_per_kv_group(block)) or 1
                for block in self.shape.attention_blocks
            },
        )

    @cached_property
    def unpruned_counts(self) -> UnitCounts:
        """Units and ranks of the unpruned model with all PEFT modules."""
        totals = {path: x.total for path, x in self.ranks.items()}
        return self.shape.count_unpruned(totals, peft_type=self.peft_type)

    def compute_pruned_shape(self, linear: str) -> tuple[int, int]:
        """Return inputs and outputs of a block linear, by its old path, after pruning."""
        path = self.shape.block_of[linear].path
        units, kv_groups = self.counts.units[path], self.counts.kv_groups.get(path)
        return self.shape.linears[linear].compute_pruned_shape(units, kv_groups)

    @property
    def keeps_base_intact(self) -> bool:
        """Whether the plan prunes no layer, no head and no neuron."""
        kept = (*self.layers.values(), *self.units.values())
        return all(units.is_complete for units in kept)

    @property
    def is_identity(self) -> bool:
        """Whether the plan prunes nothing."""
        return self.keeps_base_intact and all(rank.is_complete for rank in self.ranks.values())

    @property
    def follows_estimation(self) -> bool:
        """Whether its training continues that of the estimation, which decided what is kept."""
        return not self.is_identity and self.settings.get("criterion") != NO_CRITERION

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything in the plan."""
        text = json.dumps(self._to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def summary(self) -> str:
        """Return a text table of what the plan keeps, layer by layer, and its notes.

        Parameters are those of the model with its PEFT modules, before and after pruning.
        """
        layers: dict[str, list[Block]] = {}
        for block in self.shape.blocks:
            layers.setdefault(find_layer(block.path) or block.path, []).append(block)
        header = ("layer", "heads", "neurons", "PEFT modules", "ranks")
        rows = [header, *(self._make_summary_row(path, blocks) for path, blocks in layers.items())]
        rows.append(self._make_summary_row("total", self.shape.blocks))
        before, after = (sum(parts.values()) for parts in self.count_parameters())
        table = [*align_columns(rows, left=1), f"parameters  {before:,} -> {after:,}"]
        notes = (f"note: {escape_unprintable(note)}" for note in self.notes)
        return "\n".join([*table, *notes])

    def count_parameters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the parameters of each part, PEFT modules included, before and after pruning."""
        rest = self.without_layers
        before = self.shape.count_parameters(self.unpruned_counts)
        return dict(before), dict(rest.shape.count_parameters(rest.counts))

    def _make_summary_row(self, name: str, blocks: Iterable[Block]) -> tuple[str, ...]:
        paths = {block.path for block in blocks}
        ranks = [x for path, x in self.ranks.items() if self.shape.block_of[path].path in paths]
        return (
            escape_unprintable(name),
            format_fraction(x for path, x in self.heads.items() if path in paths),
            format_fraction(x for path, x in self.neurons.items() if path in paths),
            f"{sum(1 for rank in ranks if rank.kept)} of {len(ranks)}",
            format_fraction(ranks),
        )

    def save(self, path: Path) -> None:
        """Write plan.json, with ranges of units as `0-4,7`."""
        write_json(path, {"format": _FORMAT, "digest": self.digest} | self._to_json())

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "scores": self.scores,
            "settings": self.settings,
            "notes": list(self.notes),
            **{name: serialize_units(getattr(self, name)) for name in _GROUPS},
            "shape": asdict(self.shape),
            **({} if self.peft_type == LORA else {"peft_type": self.peft_type}),
        }

    @classmethod
    def load(cls, path: Path, *, remedy: str = REMEDY) -> PruningPlan:
        """Read plan.json.

        Args:
            path: of the file.
            remedy: what to do about a plan of another version, for the message.

        Raises:
            PlanError: the file is missing, cut short, not a plan, of another version of
                lightpeft, or contradicts itself.
        """
        raw = read_json(path, PlanError)
        check_format(path, raw, _FORMAT, PlanError, remedy=remedy)
        file = parse_as(PLAN_FILE, raw, path, PlanError)
        groups = {name: getattr(file, name) for name in _GROUPS}
        units = sum(x.total for group in groups.values() for x in group.values())
        if units > MAX_UNITS:
            raise PlanError(f"{path} has {units:,} units and ranks; at most {MAX_UNITS:,} are read")
        try:
            plan = cls(
                shape=file.shape,
                fingerprint=file.fingerprint,
                scores=file.scores,
                settings=file.settings,
                notes=file.notes,
                peft_type=file.peft_type,
                **{name: expand_ranges(group) for name, group in groups.items()},
            )
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error
        except ValueError as error:  # a range without numbers
            raise PlanError(f"{path} is damaged: {error}") from error
        if plan.digest != file.digest:
            raise PlanError(
                f"{path} has changed since it was saved: its digest is another; {remedy}"
            )
        return plan
