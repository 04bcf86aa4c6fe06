"""Published sizes of well-known models, to build them with random weights and without a hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightpeft.core.errors import ModelError
from lightpeft.profiling.random_batches import ModelKind


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Kind and configuration of a published model.

    Attributes:
        kind: `encoder` (text classifier), `decoder` (causal language model), `seq2seq`
            (encoder-decoder) or `image` (image classifier).
        sizes: arguments of its configuration that differ from transformers' defaults.
    """

    kind: ModelKind
    sizes: dict[str, Any]

    @property
    def length(self) -> int:
        """Default tokens a row: 128, or of images a token for each patch and one for the class."""
        if self.kind != "image":
            return 128
        return int((self.sizes["image_size"] // self.sizes["patch_size"]) ** 2 + 1)


def _transformer(hidden: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


_BASE = _transformer(768, 12, 12, 3072)
_LARGE = _transformer(1024, 24, 16, 4096)
_BERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
_DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "pad_token_id": 0,
}
_MODERNBERT = {
    "model_type": "modernbert",
    "vocab_size": 50368,
    "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "classifier_pooling": "mean",
    "pad_token_id": 50283,
}
_OPT = {
    "model_type": "opt",
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "do_layer_norm_before": True,
    "pad_token_id": 1,
}
_OPT_1B = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "ffn_dim": 8192,
}
_OPT_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "ffn_dim": 16384,
}
_LLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "rms_norm_eps": 1e-6,
}
# The text part alone: the published 4.3 billion count the vision tower and its projector too.
_GEMMA3_4B = {
    "model_type": "gemma3_text",
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
_T5 = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu",
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
_VIT = {"model_type": "vit", "image_size": 224, "patch_size": 16, "num_labels": 1000}


def _encoder(*sizes: dict[str, Any], **changes: Any) -> ModelSize:
    return _size("encoder", *sizes, num_labels=2, **changes)


def _size(kind: ModelKind, *sizes: dict[str, Any], **changes: Any) -> ModelSize:
    joined: dict[str, Any] = {}
    for section in (*sizes, changes):
        joined |= section
    return ModelSize(kind=kind, sizes=joined)


_LLAMA2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "num_key_value_heads": 32}
_LLAMA3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
MODEL_SIZES: dict[str, ModelSize] = {
    "bert-base": _encoder(_BERT, _BASE),
    "bert-large": _encoder(_BERT, _LARGE),
    "distilbert-base": _encoder(_DISTILBERT),
    "electra-base": _encoder(_BERT, _BASE, model_type="electra", embedding_size=768),
    "minilm": _encoder(_BERT, _transformer(384, 6, 12, 1536)),
    "roberta-base": _encoder(_ROBERTA, _BASE),
    "roberta-large": _encoder(_ROBERTA, _LARGE),
    "xlm-roberta-base": _encoder(_ROBERTA, _BASE, model_type="xlm-roberta", vocab_size=250002),
    "modernbert-base": _encoder(_MODERNBERT, _transformer(768, 22, 12, 1152)),
    "opt-1.3b": _size("decoder", _OPT, _OPT_1B),
    "opt-6.7b": _size("decoder", _OPT, _OPT_7B),
    "llama-2-7b": _size("decoder", _LLAMA, _LLAMA2, _transformer(4096, 32, 32, 11008)),
    "llama-3-8b": _size("decoder", _LLAMA, _LLAMA3, _transformer(4096, 32, 32, 14336)),
    "qwen3-0.6b": _size(
        "decoder", _QWEN3, _transformer(1024, 28, 16, 3072), tie_word_embeddings=True
    ),
    "qwen3-8b": _size(
        "decoder", _QWEN3, _transformer(4096, 36, 32, 12288), tie_word_embeddings=False
    ),
    "gemma-3-4b": _size("decoder", _GEMMA3_4B, _transformer(2560, 34, 8, 10240)),
    "t5-base": _size("seq2seq", _T5),
    "vit-base": _size("image", _VIT, _BASE),
}


def check_model_size(name: str) -> None:
    """Check that a model of this name is listed.

    Raises:
        ModelError: it is not; names those that are.
    """
    if name not in MODEL_SIZES:
        raise ModelError(f"no shape {name!r}; shapes: {', '.join(MODEL_SIZES)}")
