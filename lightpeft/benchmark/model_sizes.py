"""Published sizes of well-known models, to build them with random weights and without a hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightpeft.profiling.random_batches import ModelKind


@dataclass(frozen=True)
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


def _make_sizes(hidden: int, layers: int, heads: int, inner: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


_BERT = {"model_type": "bert"}
_ROBERTA = {
    "model_type": "roberta",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
_MODERNBERT = {
    "model_type": "modernbert",
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "classifier_pooling": "mean",
}
_OPT_1B = {
    "model_type": "opt",
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "ffn_dim": 8192,
}
_OPT_7B = _OPT_1B | {"hidden_size": 4096, "num_hidden_layers": 32, "ffn_dim": 16384}
_LLAMA2 = {"model_type": "llama", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
_LLAMA3 = _LLAMA2 | {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
_QWEN3 = {
    "model_type": "qwen3",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
# The text part alone: the published 4.3 billion count the vision tower and its projector too.
_GEMMA3_4B = _make_sizes(2560, 34, 8, 10240) | {
    "model_type": "gemma3_text",
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
_T5 = {
    "model_type": "t5",
    "d_model": 768,
    "d_ff": 3072,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_heads": 12,
    "decoder_start_token_id": 0,
}
_VIT = {"model_type": "vit", "image_size": 224, "patch_size": 16, "num_labels": 1000}
_XLM_ROBERTA = _ROBERTA | {"model_type": "xlm-roberta", "vocab_size": 250002}

MODEL_SIZES = {
    "bert-base": ModelSize("encoder", _BERT),
    "bert-large": ModelSize("encoder", _BERT | _make_sizes(1024, 24, 16, 4096)),
    "distilbert-base": ModelSize("encoder", {"model_type": "distilbert"}),
    "electra-base": ModelSize(
        "encoder",
        _make_sizes(768, 12, 12, 3072) | {"model_type": "electra", "embedding_size": 768},
    ),
    "minilm": ModelSize("encoder", _BERT | _make_sizes(384, 6, 12, 1536)),
    "roberta-base": ModelSize("encoder", _ROBERTA),
    "roberta-large": ModelSize("encoder", _ROBERTA | _make_sizes(1024, 24, 16, 4096)),
    "xlm-roberta-base": ModelSize("encoder", _XLM_ROBERTA),
    "modernbert-base": ModelSize("encoder", _MODERNBERT),
    "opt-1.3b": ModelSize("decoder", _OPT_1B),
    "opt-6.7b": ModelSize("decoder", _OPT_7B),
    "llama-2-7b": ModelSize("decoder", _LLAMA2),
    "llama-3-8b": ModelSize("decoder", _LLAMA3),
    "qwen3-0.6b": ModelSize(
        "decoder", _QWEN3 | _make_sizes(1024, 28, 16, 3072) | {"tie_word_embeddings": True}
    ),
    "qwen3-8b": ModelSize("decoder", _QWEN3 | _make_sizes(4096, 36, 32, 12288)),
    "gemma-3-4b": ModelSize("decoder", _GEMMA3_4B),
    "t5-base": ModelSize("seq2seq", _T5),
    "vit-base": ModelSize("image", _VIT),
}
