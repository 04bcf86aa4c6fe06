"""Where each architecture keeps its heads and neurons: the only file with module names."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from lightpeft.core.errors import ModelError

FusedQKV = Literal["", "concatenated", "interleaved"]
HeadCountRule = Literal["", "config", "alibi", "bias_table"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Child names of one architecture's attention and feed-forward blocks.

    Attributes:
        qkv_proj: linears whose rows are heads: query, key, value, or one fused linear.
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
            `lightpeft.pruning.head_counts`.
        config_expressible: what the stock config can express of a model that keeps as many units
            in every layer: `heads`, `neurons`. Read by docs/architecture_table.py.

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
        if len(self.qkv_proj) != (1 if self.fused_qkv else 3):
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


def _is_path(name: object) -> bool:
    return isinstance(name, str) and all(map(str.isidentifier, name.split(".")))


_BERT = Family(
    qkv_proj=("self.query", "self.key", "self.value"),
    attn_out_proj="output.dense",
    attention_core="self",
    ffn_in_proj=("intermediate.dense",),
    ffn_out_proj="output.dense",
    norms=("output.LayerNorm",),
)
_DISTILBERT = Family(
    qkv_proj=("q_lin", "k_lin", "v_lin"),
    attn_out_proj="out_lin",
    ffn_in_proj=("lin1",),
    ffn_out_proj="lin2",
)
_DEBERTA = replace(
    _BERT,
    qkv_proj=("self.in_proj",),
    fused_qkv="interleaved",
    per_head_extra=("self.pos_proj", "self.pos_q_proj", "self.q_bias", "self.v_bias"),
)
_DEBERTA_V2 = replace(
    _BERT,
    qkv_proj=("self.query_proj", "self.key_proj", "self.value_proj"),
    per_head_extra=("self.pos_key_proj", "self.pos_query_proj"),
)
_ALBERT = Family(
    qkv_proj=("query", "key", "value"),
    attn_out_proj="dense",
    ffn_in_proj=("ffn",),
    ffn_out_proj="ffn_output",
    norms=("LayerNorm", "full_layer_layer_norm"),
)
_MODERNBERT = Family(
    qkv_proj=("Wqkv",),
    fused_qkv="concatenated",
    attn_out_proj="Wo",
    ffn_in_proj=("Wi",),
    fused_gate_up=True,
    ffn_out_proj="Wo",
)
_BART = Family(
    qkv_proj=("q_proj", "k_proj", "v_proj"),
    attn_out_proj="out_proj",
    ffn_in_proj=("fc1",),
    ffn_out_proj="fc2",
    norms=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
)
_CLIP = replace(_BART, norms=())
_VIT = replace(_CLIP, attn_out_proj="o_proj", config_expressible=("heads", "neurons"))
_GPT2 = Family(
    qkv_proj=("c_attn",),
    fused_qkv="concatenated",
    attn_out_proj="c_proj",
    ffn_in_proj=("c_fc",),
    ffn_out_proj="c_proj",
)
_GPT_NEOX = Family(
    qkv_proj=("query_key_value",),
    fused_qkv="interleaved",
    attn_out_proj="dense",
    ffn_in_proj=("dense_h_to_4h",),
    ffn_out_proj="dense_4h_to_h",
)
_LLAMA = Family(
    qkv_proj=("q_proj", "k_proj", "v_proj"),
    attn_out_proj="o_proj",
    ffn_in_proj=("gate_proj", "up_proj"),
    ffn_out_proj="down_proj",
    config_expressible=("heads", "neurons"),
)
_QWEN3 = replace(_LLAMA, head_norms=("q_norm", "k_norm"))
_MIXTRAL = replace(
    _LLAMA,
    ffn_in_proj=(),
    ffn_out_proj="",
    unpruned=("gate", "experts"),
    config_expressible=("heads",),
)
_QWEN2_MOE = replace(_LLAMA, unpruned=("gate", "experts", "shared_expert_gate"))
_PHI3 = replace(
    _LLAMA,
    qkv_proj=("qkv_proj",),
    fused_qkv="concatenated",
    ffn_in_proj=("gate_up_proj",),
    fused_gate_up=True,
    head_count_rule="config",
)
_T5 = Family(
    qkv_proj=("q", "k", "v"),
    attn_out_proj="o",
    ffn_in_proj=("wi",),
    ffn_out_proj="wo",
    head_count_rule="bias_table",
    config_expressible=("heads", "neurons"),
)
# More than one family: a block is of the first whose names it has.
FAMILIES: dict[str, tuple[Family, ...]] = {
    "albert": (_ALBERT,),
    "bart": (_BART,),
    "bert": (_BERT,),
    "bloom": (replace(_GPT_NEOX, head_count_rule="alibi", config_expressible=()),),
    "clip": (_CLIP,),
    "clip_text_model": (_CLIP,),
    "clip_vision_model": (_CLIP,),
    "deberta": (_DEBERTA,),
    "deberta-v2": (_DEBERTA_V2,),
    "distilbert": (_DISTILBERT,),
    "electra": (_BERT,),
    "falcon": (replace(_GPT_NEOX, head_count_rule="alibi"),),
    "gemma2": (_LLAMA,),
    # The vision tower's own head, which no mask reaches, would have to shrink with its neurons.
    "gemma3": (_QWEN3, replace(_CLIP, config_expressible=())),
    "gemma3_text": (_QWEN3,),
    "gpt2": (_GPT2,),
    "gpt_neox": (_GPT_NEOX,),
    "llama": (_LLAMA,),
    "mistral": (_LLAMA,),
    "mixtral": (_MIXTRAL,),
    "modernbert": (_MODERNBERT,),
    "opt": (_BART,),
    "phi3": (_PHI3,),
    "qwen2": (_LLAMA,),
    "qwen2_moe": (_QWEN2_MOE,),
    "qwen3": (_QWEN3,),
    "qwen3_moe": (replace(_QWEN3, unpruned=("gate", "experts")),),
    "roberta": (_BERT,),
    "t5": (_T5, replace(_T5, ffn_in_proj=("wi_0", "wi_1"))),
    "vit": (_VIT,),
    "whisper": (_BART,),
    "xlm-roberta": (_BERT,),
}


def register_family(model_type: str, *families: Family) -> None:
    """Support another architecture; a block is of the first family whose names it has.

    Args:
        model_type: as in the model's config.
        families: one, or several where blocks of a model differ.

    Raises:
        ModelError: there is no family, a wrong type, or another spec under that name already.

    Example:
        >>> from lightpeft.modeling.families import FAMILIES
        >>> lightpeft.register_family("olmo", *FAMILIES["llama"])  # named as Llama's
    """
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"model_type must be a name, got {model_type!r}")
    if not families or not all(isinstance(family, Family) for family in families):
        raise ModelError(f"{model_type!r} needs a lightpeft.Family, got {families}")
    if FAMILIES.get(model_type, families) != families:
        raise ModelError(f"model type {model_type!r} is registered already, as something else")
    FAMILIES[model_type] = families


def families_of(model: Any) -> tuple[Family, ...]:
    """Return the families of a model's architecture.

    Raises:
        ModelError: the architecture is not supported.
    """
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise ModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


# Attributes of attention modules: the size of one head, and what to set when heads are pruned.
HEAD_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
HEAD_WIDTHS = ("all_head_size", "split_size", "inner_dim")
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads")
GROUP_SIZES = ("num_key_value_groups",)
EXPERTS_PER_TOKEN = "top_k"
# Of T5: the first self-attention of a stack has the position biases for all its layers.
BIAS_TABLE = "relative_attention_bias"
# Parts of the names of modules outside the blocks, by which to classify them.
EMBEDDING_PARTS = ("embed", "conv", "project_in", "projector", "vision_tower")
ROW_PARTS = ("pooler", "text_projection", "visual_projection")
TOKEN_HEADS = ("score",)  # applied to every token, though the loss uses one per row
_POSITIONS = ("pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj")  # read no tokens
_CROSS_ATTENTION = ("encoder_attn", "EncDecAttention", "crossattention")
_READS_ENCODER = ("k_proj", "v_proj", "k", "v", "self.key", "self.value")
_VISION = ("vision_model", "vision_tower")


def attention_mask_name(path: str, *, encoder_decoder: bool) -> str:
    """Return the key of the batch's mask for the tokens that a linear reads; empty: it has none."""
    names = path.split(".")
    if set(names) & set(_VISION) or names[-1] in _POSITIONS:
        return ""
    if not encoder_decoder or "decoder" not in names:
        return "attention_mask"
    if set(names) & set(_CROSS_ATTENTION) and path.endswith(tuple(f".{n}" for n in _READS_ENCODER)):
        return "attention_mask"
    return "decoder_attention_mask"
