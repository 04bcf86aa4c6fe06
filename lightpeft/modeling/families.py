"""Where each architecture keeps its heads and neurons: the only file with module names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lightpeft.core.errors import ModelError

Fused = Literal["", "blocks", "mixed"]
Quirk = Literal["", "config", "alibi", "bias_table"]


_LISTS = ("heads_in", "neurons_in", "heads_also", "beside", "beside_heads", "whole", "stock")


@dataclass(frozen=True, kw_only=True)
class Family:
    """Child names of one architecture's attention and feed-forward blocks.

    Attributes:
        heads_in: the linears whose rows are heads: query, key, value, or one fused linear.
        heads_out: the linear that reads the concatenated heads.
        neurons_in: the linears whose rows are neurons: one, or gate and up; none where all of a
            model's feed-forward blocks are experts that stay `whole`.
        neurons_out: the linear that reads the neurons; empty where there are none.
        core: the submodule of the attention block that holds the head size and the counts.
        heads_fused: rows of a fused `heads_in`: `blocks` (all queries, all keys, all values) or
            `mixed` (per KV group its queries, its key, its value).
        neurons_fused: whether `neurons_in` is one linear with the rows of gate, then of up.
        heads_also: linears and parameters that some models have, with a row per query head.
        beside: modules inside the blocks that are as wide as the model: norms.
        beside_heads: modules inside the attention block that are as wide as one head.
        whole: children of a block of experts that no plan cuts: the experts' fused weights, which
            no linear reads and no mask reaches, and the router.
        quirk: what else has to change with the number of heads (`lightpeft.pruning.head_counts`).
        stock: what the stock config can say when every layer keeps as much: `heads`, `neurons`.
    """

    heads_in: tuple[str, ...]
    heads_out: str
    neurons_in: tuple[str, ...]
    neurons_out: str
    core: str = ""
    heads_fused: Fused = ""
    neurons_fused: bool = False
    heads_also: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    beside_heads: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    quirk: Quirk = ""
    stock: tuple[str, ...] = ("neurons",)

    def __post_init__(self) -> None:
        for field in _LISTS:
            names = getattr(self, field)
            if not isinstance(names, tuple) or not all(_is_path(name) for name in names):
                raise ModelError(f"Family.{field} must be a tuple of child names, got {names!r}")
        experts_only = bool(self.whole) and not self.neurons_in and not self.neurons_out
        for field in ("heads_out",) if experts_only else ("heads_out", "neurons_out"):
            if not _is_path(getattr(self, field)):
                raise ModelError(
                    f"Family.{field} must be a child name, got {getattr(self, field)!r}"
                )
        _one_of("heads_fused", self.heads_fused, get_args(Fused))
        _one_of("quirk", self.quirk, get_args(Quirk))
        if len(self.heads_in) != (1 if self.heads_fused else 3):
            raise ModelError(
                f"Family.heads_in must be query, key and value, or one linear with heads_fused, "
                f"got {self.heads_in} with heads_fused {self.heads_fused!r}"
            )
        counts = (0,) if experts_only else (1,) if self.neurons_fused else (1, 2)
        if len(self.neurons_in) not in counts:
            raise ModelError(
                f"Family.neurons_in must be one linear, or gate and up, "
                f"got {self.neurons_in} with neurons_fused {self.neurons_fused}"
            )
        names = (*self.heads_in, *self.heads_also, self.heads_out)
        if len(set(names)) < len(names) or self.neurons_out in self.neurons_in:
            raise ModelError(f"Family names a linear twice: {(*names, *self.neurons_in)}")
        if not set(self.stock) <= {"heads", "neurons"}:
            raise ModelError(f"Family.stock must be of heads, neurons, got {self.stock}")


def _is_path(name: object) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ModelError(f"Family.{field} must be one of {allowed}, got {value!r}")


_BERT = Family(
    heads_in=("self.query", "self.key", "self.value"),
    heads_out="output.dense",
    core="self",
    neurons_in=("intermediate.dense",),
    neurons_out="output.dense",
    beside=("output.LayerNorm",),
)
_DISTILBERT = Family(
    heads_in=("q_lin", "k_lin", "v_lin"),
    heads_out="out_lin",
    neurons_in=("lin1",),
    neurons_out="lin2",
)
_DEBERTA = replace(
    _BERT,
    heads_in=("self.in_proj",),
    heads_fused="mixed",
    heads_also=("self.pos_proj", "self.pos_q_proj", "self.q_bias", "self.v_bias"),
)
_DEBERTA_V2 = replace(
    _BERT,
    heads_in=("self.query_proj", "self.key_proj", "self.value_proj"),
    heads_also=("self.pos_key_proj", "self.pos_query_proj"),
)
_ALBERT = Family(
    heads_in=("query", "key", "value"),
    heads_out="dense",
    neurons_in=("ffn",),
    neurons_out="ffn_output",
    beside=("LayerNorm", "full_layer_layer_norm"),
)
_MODERNBERT = Family(
    heads_in=("Wqkv",),
    heads_fused="blocks",
    heads_out="Wo",
    neurons_in=("Wi",),
    neurons_fused=True,
    neurons_out="Wo",
)
_BART = Family(
    heads_in=("q_proj", "k_proj", "v_proj"),
    heads_out="out_proj",
    neurons_in=("fc1",),
    neurons_out="fc2",
    beside=("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
)
_CLIP = replace(_BART, beside=())
_VIT = replace(_CLIP, heads_out="o_proj", stock=("heads", "neurons"))
_GPT2 = Family(
    heads_in=("c_attn",),
    heads_fused="blocks",
    heads_out="c_proj",
    neurons_in=("c_fc",),
    neurons_out="c_proj",
)
_GPT_NEOX = Family(
    heads_in=("query_key_value",),
    heads_fused="mixed",
    heads_out="dense",
    neurons_in=("dense_h_to_4h",),
    neurons_out="dense_4h_to_h",
)
_LLAMA = Family(
    heads_in=("q_proj", "k_proj", "v_proj"),
    heads_out="o_proj",
    neurons_in=("gate_proj", "up_proj"),
    neurons_out="down_proj",
    stock=("heads", "neurons"),
)
_QWEN3 = replace(_LLAMA, beside_heads=("q_norm", "k_norm"))
_MIXTRAL = replace(
    _LLAMA, neurons_in=(), neurons_out="", whole=("gate", "experts"), stock=("heads",)
)
_QWEN2_MOE = replace(_LLAMA, whole=("gate", "experts", "shared_expert_gate"))
_PHI3 = replace(
    _LLAMA,
    heads_in=("qkv_proj",),
    heads_fused="blocks",
    neurons_in=("gate_up_proj",),
    neurons_fused=True,
    quirk="config",
)
_T5 = Family(
    heads_in=("q", "k", "v"),
    heads_out="o",
    neurons_in=("wi",),
    neurons_out="wo",
    quirk="bias_table",
    stock=("heads", "neurons"),
)
# More than one family: a block is of the first whose names it has.
FAMILIES: dict[str, tuple[Family, ...]] = {
    "albert": (_ALBERT,),
    "bart": (_BART,),
    "bert": (_BERT,),
    "bloom": (replace(_GPT_NEOX, quirk="alibi", stock=()),),
    "clip": (_CLIP,),
    "clip_text_model": (_CLIP,),
    "clip_vision_model": (_CLIP,),
    "deberta": (_DEBERTA,),
    "deberta-v2": (_DEBERTA_V2,),
    "distilbert": (_DISTILBERT,),
    "electra": (_BERT,),
    "falcon": (replace(_GPT_NEOX, quirk="alibi"),),
    "gemma2": (_LLAMA,),
    # The vision tower's own head, which no mask reaches, would have to shrink with its neurons.
    "gemma3": (_QWEN3, replace(_CLIP, stock=())),
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
    "qwen3_moe": (replace(_QWEN3, whole=("gate", "experts")),),
    "roberta": (_BERT,),
    "t5": (_T5, replace(_T5, neurons_in=("wi_0", "wi_1"))),
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
    """
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"model_type must be a name, got {model_type!r}")
    if not families or not all(isinstance(family, Family) for family in families):
        raise ModelError(f"{model_type!r} needs a lightpeft.Family, got {families}")
    if FAMILIES.get(model_type, families) != families:
        raise ModelError(f"model type {model_type!r} is registered already, as something else")
    FAMILIES[model_type] = families


def families_of(model: Any) -> tuple[Family, ...]:
    """The names of a model's architecture.

    Raises:
        ModelError: the architecture is not supported.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"model type {kind!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[kind]


# What holds the size of one head, and what has to be set when heads go.
HEAD_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")
HEAD_WIDTHS = ("all_head_size", "split_size", "inner_dim")
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads")
GROUP_SIZES = ("num_key_value_groups",)
EXPERTS_PER_TOKEN = "top_k"
# T5's first self-attention of a stack holds the position biases of all its layers' heads.
BIAS_TABLE = "relative_attention_bias"
# Parts of names by which modules outside the blocks are told apart.
EMBEDDING_PARTS = ("embed", "conv", "project_in", "projector", "vision_tower")
ROW_PARTS = ("pooler", "text_projection", "visual_projection")
TOKEN_HEADS = ("score",)  # runs on every token, though one a row counts
_POSITIONS = ("pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj")  # see no tokens
_CROSS_ATTENTION = ("encoder_attn", "EncDecAttention", "crossattention")
_READS_ENCODER = ("k_proj", "v_proj", "k", "v", "self.key", "self.value")
_VISION = ("vision_model", "vision_tower")


def mask_key(path: str, *, encoder_decoder: bool) -> str:
    """Which mask of a batch marks the real tokens that a linear sees; empty: none does."""
    parts = path.split(".")
    if set(parts) & set(_VISION) or parts[-1] in _POSITIONS:
        return ""
    if not encoder_decoder or "decoder" not in parts:
        return "attention_mask"
    if set(parts) & set(_CROSS_ATTENTION) and path.endswith(tuple(f".{n}" for n in _READS_ENCODER)):
        return "attention_mask"
    return "decoder_attention_mask"


def repeats_of(model: Any) -> dict[str, int]:
    """Paths of modules that run several times in a row -> how often (ALBERT shares its layers)."""
    groups = [p for p, m in model.named_modules() if type(m).__name__ == "AlbertLayerGroup"]
    if not groups:
        return {}
    depth = model.config.num_hidden_layers
    runs = [int(layer / (depth / len(groups))) for layer in range(depth)]
    return {path: runs.count(index) for index, path in enumerate(groups)}
