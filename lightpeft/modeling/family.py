"""How a family of architectures names its blocks' children."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from lightpeft.core.errors import ModelError

FusedQKV = Literal["", "concatenated", "interleaved"]
HeadCountRule = Literal["", "config", "alibi", "bias_table"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Child names of one architecture's attention and feed-forward blocks.

    Attributes:
        qkv_proj: linears whose rows are heads: query, key, value, or one fused linear. Empty where
            heads can't be pruned (latent attention, recurrent mixers, norms over all heads): the
            block then counts as one head that is always kept, and all its linears get LoRA.
        attn_out_proj: linear whose input is the concatenated heads.
        ffn_in_proj: linears whose rows are neurons: one, or gate and up; empty where all
            feed-forward blocks of the model are MoE blocks with `unpruned` experts.
        ffn_out_proj: linear whose input is the neurons; empty where there are none.
        attention_core: submodule of the attention block that holds head size and head counts.
        fused_qkv: row order of a fused `qkv_proj`: `concatenated` (all queries, all keys, all
            values) or `interleaved` (per KV group its queries, its key, its value).
        fused_gate_up: whether `ffn_in_proj` is one linear with the rows of gate, then of up.
        per_head_extra: optional linears and parameters with rows per query head.
        norms: norms inside the blocks, as wide as the model.
        head_norms: norms inside the attention block, as wide as one head.
        unpruned: children of a MoE block that keep all weights: the router, and the fused experts,
            before which no mask can be applied.
        head_count_rule: what else depends on the number of heads: `config` (read in forward),
            `alibi` (made for all heads at once) or `bias_table` (T5's position biases); see
            `lightpeft.modeling.head_counts`.
        config_expressible: what the stock config can express of a model that keeps as many units
            in every layer: `heads`, `neurons`; see `lightpeft.modeling.stock_config`.

    Example:
        >>> attention = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "attn_out_proj": "o_proj"}
        >>> family = lightpeft.Family(**attention, ffn_in_proj=("fc1",), ffn_out_proj="fc2")
    """

    qkv_proj: tuple[str, ...]
    attn_out_proj: str
    ffn_in_proj: tuple[str, ...]
    ffn_out_proj: str
    attention_core: str = ""
    fused_qkv: FusedQKV = ""
    fused_gate_up: bool = False
    per_head_extra: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()
    unpruned: tuple[str, ...] = ()
    head_count_rule: HeadCountRule = ""
    config_expressible: tuple[str, ...] = ("neurons",)

    def __post_init__(self) -> None:
        for field in fields(self):
            names = getattr(self, field.name)
            is_tuple = isinstance(names, tuple) and all(map(_is_path, names))
            if field.type == "tuple[str, ...]" and not is_tuple:
                raise ModelError(
                    f"Family.{field.name} must be a tuple of child names, got {names!r}"
                )
        only_experts = bool(self.unpruned) and not self.ffn_in_proj and not self.ffn_out_proj
        for key in ("attn_out_proj",) if only_experts else ("attn_out_proj", "ffn_out_proj"):
            if not _is_path(getattr(self, key)):
                raise ModelError(f"Family.{key} must be a child name, got {getattr(self, key)!r}")
        for key, choices in (("fused_qkv", FusedQKV), ("head_count_rule", HeadCountRule)):
            value, allowed = getattr(self, key), get_args(choices)
            if value not in allowed:
                raise ModelError(f"Family.{key} must be one of {allowed}, got {value!r}")
        if self.qkv_proj and len(self.qkv_proj) != (1 if self.fused_qkv else 3):
            raise ModelError(
                f"Family.qkv_proj must be query, key and value, or one linear with fused_qkv, "
                f"got {self.qkv_proj} with fused_qkv {self.fused_qkv!r}"
            )
        expected = (0,) if only_experts else (1,) if self.fused_gate_up else (1, 2)
        if len(self.ffn_in_proj) not in expected:
            raise ModelError(
                f"Family.ffn_in_proj must be one linear, or gate and up, "
                f"got {self.ffn_in_proj} with fused_gate_up {self.fused_gate_up}"
            )
        names = (*self.qkv_proj, *self.per_head_extra, self.attn_out_proj)
        if len(set(names)) < len(names) or self.ffn_out_proj in self.ffn_in_proj:
            raise ModelError(f"Family names a linear twice: {(*names, *self.ffn_in_proj)}")
        if not set(self.config_expressible) <= {"heads", "neurons"}:
            raise ModelError(
                f"Family.config_expressible must be of heads, neurons, "
                f"got {self.config_expressible}"
            )

    def keep_heads(self) -> Family:
        """Return the family whose attention blocks are one unit, whatever is in them."""
        return replace(self, qkv_proj=(), fused_qkv="", per_head_extra=(), head_count_rule="")


def _is_path(name: object) -> bool:
    return isinstance(name, str) and all(map(str.isidentifier, name.split(".")))
