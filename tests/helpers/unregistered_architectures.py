"""Tiny configs of model types without registered names: matched by structure, or refused."""

from __future__ import annotations

from helpers.architectures import (
    _DECODER,
    _EAGER,
    _ENCODER,
    _IMAGE,
    _SEQUENCES,
    _T5,
    _TOKENS,
    VOCABULARY,
    _define,
)

_EXPERTS = _DECODER | {"num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4}
_EXPERTS |= {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
_LATENT |= {
    "num_key_value_heads": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
_MIXED_LAYERS = {"layer_types": ["linear_attention", "full_attention"]}
# Types without registered names, which are matched by structure.
BY_STRUCTURE = {
    "beit": _define("beit", "BeitForImageClassification", "image", _IMAGE),
    "deit": _define("deit", "DeiTForImageClassification", "image", _IMAGE),
    "dinov2": _define("dinov2", "Dinov2ForImageClassification", "image", _IMAGE),
    "deepseek_v3": _define("deepseek_v3", "DeepseekV3ForCausalLM", "decoder", _EXPERTS | _LATENT),
    "gemma": _define("gemma", "GemmaForCausalLM", "decoder", _DECODER | {"head_dim": 8}),
    "gpt_neox_japanese": _define(
        "gpt_neox_japanese",
        "GPTNeoXJapaneseForCausalLM",
        "decoder",
        _ENCODER | _TOKENS | {"intermediate_multiple_size": 2},
        attention=_EAGER,
    ),
    "gpt_oss": _define(
        "gpt_oss",
        "GptOssForCausalLM",
        "decoder",
        _EXPERTS | {"sliding_window": 6},
        attention=_EAGER,
    ),
    "granite": _define("granite", "GraniteForCausalLM", "decoder", _DECODER),
    "m2m_100": _define("m2m_100", "M2M100ForConditionalGeneration", "seq2seq", _SEQUENCES),
    "mbart": _define(
        "mbart",
        "MBartForConditionalGeneration",
        "seq2seq",
        _SEQUENCES | {"max_position_embeddings": 32},
    ),
    "minimax": _define("minimax", "MiniMaxForCausalLM", "decoder", _EXPERTS | _MIXED_LAYERS),
    "mpnet": _define("mpnet", "MPNetForMaskedLM", "encoder", _ENCODER, attention=_EAGER),
    "mt5": _define("mt5", "MT5ForConditionalGeneration", "seq2seq", _T5),
    "olmo2": _define("olmo2", "Olmo2ForCausalLM", "decoder", _DECODER),
    "olmo3": _define("olmo3", "Olmo3ForCausalLM", "decoder", _DECODER | {"sliding_window": 6}),
    "phi": _define("phi", "PhiForCausalLM", "decoder", _DECODER),
    "qwen3_next": _define(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        "decoder",
        _EXPERTS | _LINEAR | _MIXED_LAYERS | {"shared_expert_intermediate_size": 40},
    ),
    "smollm3": _define("smollm3", "SmolLM3ForCausalLM", "decoder", _DECODER),
    "starcoder2": _define("starcoder2", "Starcoder2ForCausalLM", "decoder", _DECODER),
}
# Types that can't be cut by the names of a known family: their code counts heads elsewhere.
REFUSED = {
    "codegen": _define(
        "codegen",
        "CodeGenForCausalLM",
        "decoder",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
        | _TOKENS,
    ),
    "gpt_bigcode": _define(
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        "decoder",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4} | _TOKENS,
    ),
    "mpt": _define(
        "mpt",
        "MptForCausalLM",
        "decoder",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2},
    ),
    "mvp": _define("mvp", "MvpForConditionalGeneration", "seq2seq", _SEQUENCES),
}
