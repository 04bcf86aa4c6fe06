"""A tiny config of every supported architecture and layout; adding one is a line here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as hf

VOCABULARY = 50
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
_DECODER = _ENCODER | _TOKENS | {"num_attention_heads": 8, "num_key_value_heads": 4}
_DECODER |= {"hidden_size": 32}
_WIDE = _DECODER | {"head_dim": 8, "sliding_window": 6}
_GEMMA = _WIDE | {"query_pre_attn_scalar": 8}
_MOE = _DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_FALCON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 40,
    "alibi": False,
} | _TOKENS
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_SEQUENCES = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
} | _TOKENS
_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}
_TEXT = _TOWER | _TOKENS | {"vocab_size": VOCABULARY, "max_position_embeddings": 32}
_IMAGE = _TOWER | {"image_size": 8, "patch_size": 4}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


@dataclass(frozen=True)
class Architecture:
    """One way a supported model comes: its config, its class, what it is fed.

    Attributes:
        kind: `encoder`, `decoder`, `seq2seq`, `image`, `clip` or `audio`.
        attention: the kernels that the family has in transformers.
    """

    config: Callable[[], Any]
    model: str
    kind: str
    attention: tuple[str, ...] = ("eager", "sdpa")

    @property
    def generates(self) -> bool:
        """Whether it decodes token by token, with a cache of keys and values."""
        return self.kind in ("decoder", "seq2seq", "audio")


def _define(
    model_type: str, model: str, kind: str, sizes: dict[str, Any], **changes: Any
) -> Architecture:
    attention = changes.pop("attention", ("eager", "sdpa"))

    def make_config() -> Any:
        return hf.AutoConfig.for_model(model_type, **copy.deepcopy(sizes | changes))

    return Architecture(make_config, model, kind, attention)


_EAGER = ("eager",)
LLAMA = "llama, shared keys and values"
# model_type, or model_type and layout -> how to build it.
ARCHITECTURES = {
    "albert": _define(
        "albert",
        "AlbertForMaskedLM",
        "encoder",
        _ENCODER | {"embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2},
    ),
    "bart": _define(
        "bart",
        "BartForConditionalGeneration",
        "seq2seq",
        _SEQUENCES | {"max_position_embeddings": 32},
    ),
    "bert": _define("bert", "BertForSequenceClassification", "encoder", _ENCODER),
    "bloom": _define(
        "bloom",
        "BloomForCausalLM",
        "decoder",
        {"vocab_size": VOCABULARY, "hidden_size": 24, "n_layer": 2, "n_head": 4} | _TOKENS,
        attention=_EAGER,
    ),
    "clip": _define(
        "clip",
        "CLIPModel",
        "clip",
        {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 12},
    ),
    "clip_text_model": _define("clip_text_model", "CLIPTextModel", "encoder", _TEXT),
    "clip_vision_model": _define("clip_vision_model", "CLIPVisionModel", "image", _IMAGE),
    "deberta": _define(
        "deberta", "DebertaForMaskedLM", "encoder", _ENCODER | _DEBERTA, attention=_EAGER
    ),
    "deberta-v2, positions shared (v3)": _define(
        "deberta-v2",
        "DebertaV2ForMaskedLM",
        "encoder",
        _ENCODER | _DEBERTA,
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        attention=_EAGER,
    ),
    "deberta-v2, positions projected": _define(
        "deberta-v2",
        "DebertaV2ForMaskedLM",
        "encoder",
        _ENCODER | _DEBERTA,
        position_buckets=-1,
        share_att_key=False,
        attention=_EAGER,
    ),
    "distilbert": _define(
        "distilbert",
        "DistilBertForSequenceClassification",
        "encoder",
        {
            "vocab_size": VOCABULARY,
            "dim": 24,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 40,
            "max_position_embeddings": 32,
        },
    ),
    "electra": _define(
        "electra", "ElectraForMaskedLM", "encoder", _ENCODER | {"embedding_size": 16}
    ),
    "falcon, new": _define(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON | {"num_attention_heads": 8},
        num_kv_heads=4,
        new_decoder_architecture=True,
        bias=False,
    ),
    "falcon, one KV group (7b)": _define(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON,
        multi_query=True,
        new_decoder_architecture=False,
        parallel_attn=True,
        bias=False,
    ),
    "falcon, alibi (rw)": _define(
        "falcon",
        "FalconForCausalLM",
        "decoder",
        _FALCON | {"alibi": True},
        multi_query=False,
        new_decoder_architecture=False,
        parallel_attn=False,
        bias=True,
    ),
    "gemma2": _define("gemma2", "Gemma2ForCausalLM", "decoder", _GEMMA, attention=_EAGER),
    "gemma3_text": _define("gemma3_text", "Gemma3ForCausalLM", "decoder", _GEMMA),
    "gemma3_text, one KV group": _define(
        "gemma3_text", "Gemma3ForCausalLM", "decoder", _GEMMA | {"num_key_value_heads": 1}
    ),
    "gemma3": _define(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        "decoder",
        {
            "text_config": _GEMMA,
            "vision_config": _IMAGE,
            "mm_tokens_per_image": 4,
            "image_token_index": 49,
            "boi_token_index": 48,
            "eoi_token_index": 47,
        },
    ),
    "gpt2": _define(
        "gpt2",
        "GPT2LMHeadModel",
        "decoder",
        {"vocab_size": VOCABULARY, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 40}
        | {"n_positions": 32}
        | _TOKENS,
    ),
    "gpt_neox": _define("gpt_neox", "GPTNeoXForCausalLM", "decoder", _ENCODER | _TOKENS),
    "llama, one key and value per head": _define(
        "llama", "LlamaForCausalLM", "decoder", _DECODER | {"num_key_value_heads": 8}
    ),
    LLAMA: _define(
        "llama", "LlamaForCausalLM", "decoder", _DECODER, attention_bias=True, mlp_bias=True
    ),
    "mistral": _define(
        "mistral",
        "MistralForCausalLM",
        "decoder",
        _DECODER | {"sliding_window": 6, "num_key_value_heads": 2},
    ),
    "mixtral": _define(
        "mixtral",
        "MixtralForCausalLM",
        "decoder",
        _DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24},
    ),
    "modernbert": _define(
        "modernbert",
        "ModernBertForMaskedLM",
        "encoder",
        _ENCODER | _TOKENS | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "opt": _define(
        "opt",
        "OPTForCausalLM",
        "decoder",
        _ENCODER | _TOKENS | {"ffn_dim": 40, "word_embed_proj_dim": 16},
    ),
    "opt, norm behind (350m)": _define(
        "opt",
        "OPTForCausalLM",
        "decoder",
        _ENCODER | _TOKENS | {"ffn_dim": 40, "word_embed_proj_dim": 24},
        do_layer_norm_before=False,
    ),
    "phi3": _define("phi3", "Phi3ForCausalLM", "decoder", _DECODER),
    "qwen2": _define("qwen2", "Qwen2ForCausalLM", "decoder", _DECODER),
    "qwen3": _define("qwen3", "Qwen3ForCausalLM", "decoder", _DECODER | {"head_dim": 8}),
    "qwen2_moe, shared expert and dense layer": _define(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        "decoder",
        _MOE | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [0]},
    ),
    "qwen3_moe": _define("qwen3_moe", "Qwen3MoeForCausalLM", "decoder", _MOE | {"head_dim": 8}),
    "qwen3_moe, dense layer": _define(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        "decoder",
        _MOE | {"head_dim": 8, "mlp_only_layers": [1]},
    ),
    "roberta": _define("roberta", "RobertaForSequenceClassification", "encoder", _ENCODER),
    "t5": _define("t5", "T5ForConditionalGeneration", "seq2seq", _T5, feed_forward_proj="relu"),
    "t5, gated (flan-t5)": _define(
        "t5", "T5ForConditionalGeneration", "seq2seq", _T5, feed_forward_proj="gated-gelu"
    ),
    "vit": _define("vit", "ViTForImageClassification", "image", _IMAGE | {"num_labels": 7}),
    "whisper": _define(
        "whisper",
        "WhisperForConditionalGeneration",
        "audio",
        _SEQUENCES | {"num_mel_bins": 6, "max_source_positions": 10, "max_target_positions": 32},
        suppress_tokens=[],
        begin_suppress_tokens=[],
    ),
    "xlm-roberta": _define("xlm-roberta", "XLMRobertaForMaskedLM", "encoder", _ENCODER),
}
