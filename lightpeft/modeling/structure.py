"""Match the blocks of a model type that is not registered with the names of known families."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from lightpeft.core.shape import ModelShape
from lightpeft.modeling.families import EXPERTS, list_families
from lightpeft.modeling.family import Family, FusedQKV, HeadCountRule
from lightpeft.modeling.shape_reading import read_shape


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the names of a model's submodules leave open, decided by proof.

    Attributes:
        fused_qkv: row order of fused query, key and value, where there are any.
        head_count_rule: what else depends on the number of heads, see `Family`.
        keeps_heads: whether no head can be pruned, because layers share keys and values.
        skipped: stacks and blocks that are left as they are: no text goes through them.
        keeps_layers: why no layer can be pruned whole; empty if some can.
    """

    fused_qkv: FusedQKV = "concatenated"
    head_count_rule: HeadCountRule = ""
    keeps_heads: bool = False
    skipped: tuple[str, ...] = ()
    keeps_layers: str = ""

    def read(self, model: PreTrainedModel) -> ModelShape:
        """Return what can be pruned of the model by this reading.

        Raises:
            ModelError: a block can't be matched, or holds something that is not accounted for.
        """
        return read_shape(
            model,
            self._list_families(model),
            by_structure=True,
            skipped=self.skipped,
            keeps_layers=self.keeps_layers,
        )

    def list_alternatives(self) -> Iterator[Reading]:
        """Yield all readings that skip the same stacks, the likeliest first."""
        for rule in ("", "config", "alibi"):
            for order in ("concatenated", "interleaved"):
                yield replace(self, fused_qkv=order, head_count_rule=rule)

    def _list_families(self, model: PreTrainedModel) -> tuple[Family, ...]:
        """Return a family for every way to name an attention block, or a feed-forward block.

        Each combines the query, key and value projections of one known family with the output
        projection of any; feed-forward projections are taken together.
        """
        endings = set(_list_endings(path for path, _ in model.named_modules()))
        known = list_families()
        shared: dict[str, Any] = {
            key: tuple(dict.fromkeys(name for family in known for name in getattr(family, key)))
            for key in ("norms", "head_norms", "per_head_extra")
        }
        feed_forward = _list_feed_forward(known, endings)
        attention = _list_attention(known, endings)
        attention += attention[:1] * (len(feed_forward) - len(attention))
        if self.keeps_heads:
            attention = [(family.keep_heads(), output) for family, output in attention]
        dense = feed_forward or [((), "")]
        return tuple(
            replace(
                family,
                **shared if family.qkv_proj else {},
                attn_out_proj=output,
                ffn_in_proj=dense[min(index, len(dense) - 1)][0],
                ffn_out_proj=dense[min(index, len(dense) - 1)][1],
                fused_gate_up=False,
                unpruned=() if feed_forward else EXPERTS,
                fused_qkv=self.fused_qkv if family.fused_qkv else "",
                head_count_rule=self._find_rule(family),
            )
            for index, (family, output) in enumerate(attention)
        )

    def _find_rule(self, family: Family) -> HeadCountRule:
        is_table = family.head_count_rule == "bias_table" and not self.head_count_rule
        return family.head_count_rule if is_table or not family.qkv_proj else self.head_count_rule


def _list_feed_forward(
    known: Iterable[Family], endings: Set[str]
) -> list[tuple[tuple[str, ...], str]]:
    """Return the names of known feed-forward blocks, inputs and output, that a model may have."""
    names = {
        (family.ffn_in_proj, family.ffn_out_proj): None
        for family in known
        if family.ffn_in_proj and endings >= {*family.ffn_in_proj, family.ffn_out_proj}
    }
    return list(names)


def _list_attention(known: Collection[Family], endings: Set[str]) -> list[tuple[Family, str]]:
    """Return known families whose query, key and value a model may have, with output projections.

    Those that name no query, key and value are last, and have only their own.
    """
    outputs = [f.attn_out_proj for f in known if f.qkv_proj and f.attn_out_proj in endings]
    found: dict[tuple[tuple[str, ...], str], Family] = {}
    for family in sorted(known, key=lambda family: not family.qkv_proj):
        own = [family.attn_out_proj] if family.attn_out_proj in endings else []
        if endings >= {*family.qkv_proj}:
            for output in (*own, *(outputs if family.qkv_proj else ())):
                found.setdefault((family.qkv_proj, output), family)
    return [(family, output) for (_, output), family in found.items()]


def _list_endings(paths: Iterable[str]) -> Iterator[str]:
    """Yield the last name of each path, and the last two."""
    for path in paths:
        yield path.rpartition(".")[2]
        yield ".".join(path.split(".")[-2:])
