"""Where each architecture keeps its heads and neurons: the only file with module names."""

from __future__ import annotations

from dataclasses import replace

from lightpeft.core.errors import ModelError
from lightpeft.modeling.family import Family

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


# Names by which blocks of a type that is not registered are matched, besides those above.
PATTERNS = (
    Family(
        qkv_proj=("attention.query", "attention.key", "attention.value"),
        attention_core="attention",
        attn_out_proj="output.dense",
        ffn_in_proj=("intermediate_dense",),
        ffn_out_proj="output_dense",
        per_head_extra=("relative_position_bias.relative_position_bias_table",),
        norms=("attention_layernorm", "ffn_layernorm", "layer_norm"),
    ),
    Family(
        qkv_proj=("qkv",),
        fused_qkv="concatenated",
        attn_out_proj="proj",
        ffn_in_proj=("linear1",),
        ffn_out_proj="linear2",
        head_norms=("q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm"),
    ),
    Family(
        qkv_proj=("qkv_proj",),
        fused_qkv="concatenated",
        attn_out_proj="out_proj",
        ffn_in_proj=("up_proj",),
        ffn_out_proj="down_proj",
        per_head_extra=("sinks", "gate_proj", "g_proj", "relative_k_proj", "bias_u", "bias_v"),
    ),
    Family(
        qkv_proj=("Wq", "Wk", "Wv"),
        attn_out_proj="o_proj",
        ffn_in_proj=("w1", "w3"),
        ffn_out_proj="w2",
    ),
    Family(
        qkv_proj=("query", "key", "value"),
        attn_out_proj="proj",
        ffn_in_proj=("fc_in",),
        ffn_out_proj="fc_out",
    ),
    Family(
        qkv_proj=("query_proj", "key_proj", "value_proj"),
        attn_out_proj="out_proj",
        ffn_in_proj=("intermediate",),
        ffn_out_proj="output",
    ),
    Family(
        qkv_proj=("wq", "wk", "wv"),
        attn_out_proj="wo",
        ffn_in_proj=("dense1",),
        ffn_out_proj="dense2",
    ),
    Family(qkv_proj=(), attn_out_proj="o_proj", ffn_in_proj=("linear_1",), ffn_out_proj="linear_2"),
    Family(qkv_proj=(), attn_out_proj="out_proj", ffn_in_proj=("w_0",), ffn_out_proj="w_1"),
    Family(qkv_proj=(), attn_out_proj="Wo", ffn_in_proj=("w1",), ffn_out_proj="w2"),
    Family(
        qkv_proj=(),
        attn_out_proj="wo",
        ffn_in_proj=("input_linear",),
        ffn_out_proj="output_linear",
    ),
)


def find_families(model_type: str) -> tuple[Family, ...]:
    """Return the families of a model type; none if it is not registered."""
    return FAMILIES.get(model_type, ())


def list_families() -> list[Family]:
    """Return all families by whose names blocks are matched, those of registered types first."""
    return [family for families in (*FAMILIES.values(), PATTERNS) for family in families]


def is_query_or_value(path: str) -> bool:
    """Return whether a linear in an attention block computes queries or values, alone or fused."""
    names = {x.qkv_proj[i] for x in list_families() if x.qkv_proj for i in (0, -1)}
    return path.endswith(tuple(f".{name}" for name in names))


def list_siblings(path: str) -> set[tuple[str, ...]]:
    """Return the names of children that read the same input, if the module at a path has them.

    Query, key and value, of cross-attention only key and value; gate and up.
    """
    names = path.split(".")
    is_cross = any(name in _CROSS_ATTENTION or "cross" in name for name in names)
    found = set()
    for family in list_families():
        for linears in (family.qkv_proj[1:] if is_cross else family.qkv_proj, family.ffn_in_proj):
            found.add(tuple(linear.rpartition(".")[2] for linear in linears))
    return {linears for linears in found if len(linears) > 1}


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


# Attributes of attention modules: the size of one head, and what to set when heads are pruned.
HEAD_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
HEAD_WIDTHS = ("all_head_size", "split_size", "inner_dim")
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads")
GROUP_SIZES = ("num_key_value_groups",)
# Keys of a config for the neurons of all layers.
CONFIG_NEURONS = (
    *("intermediate_size", "shared_expert_intermediate_size", "d_ff", "n_inner", "hidden_dim"),
    *("ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"),
)
# Keys of a config for the number of layers of a stack.
DEPTHS = r"n(um)?_(encoder_|decoder_)?(hidden_)?layers?|(encoder_|decoder_)?layers|depth"
LAYER_NUMBERS = ("layer_idx", "layer_id")  # attributes of modules: for the KV cache and masks
LAYER_NUMBER_SETTINGS = ("scale_attn_by_inverse_layer_idx",)  # if true, layers compute with theirs
KV_SHARING = "num_kv_shared_layers"  # in a config: layers that use another layer's keys and values
PER_HEAD_COLUMNS = "relative_position_bias_table"  # a parameter whose columns are heads
EXPERTS = ("experts",)
EXPERTS_PER_TOKEN = ("top_k", "num_experts_per_tok", "moe_topk", "topk")
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


def find_attention_mask_name(path: str, *, encoder_decoder: bool) -> str:
    """Return the key of the batch's mask for the tokens that a linear reads; empty: it has none."""
    names = path.split(".")
    if set(names) & set(_VISION) or names[-1] in _POSITIONS:
        return ""
    if not encoder_decoder or "decoder" not in names:
        return "attention_mask"
    if set(names) & set(_CROSS_ATTENTION) and path.endswith(tuple(f".{n}" for n in _READS_ENCODER)):
        return "attention_mask"
    return "decoder_attention_mask"
