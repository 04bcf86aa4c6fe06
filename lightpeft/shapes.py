"""Sizes of well-known encoders, to build them with random weights and without a model hub."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from lightpeft.errors import ModelError

_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
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
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {**_BERT, **_BASE},
    "bert-large": {**_BERT, **_LARGE},
    "distilbert-base": {
        "model_type": "distilbert",
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "pad_token_id": 0,
    },
    "electra-base": {**_BERT, **_BASE, "model_type": "electra", "embedding_size": 768},
    "minilm": {
        **_BERT,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "roberta-base": {**_ROBERTA, **_BASE},
    "roberta-large": {**_ROBERTA, **_LARGE},
    "xlm-roberta-base": {**_ROBERTA, **_BASE, "model_type": "xlm-roberta", "vocab_size": 250002},
}


def check(name: str) -> None:
    """Refuse a name that no shape has.

    Raises:
        ModelError: there is no shape of this name; lists them.
    """
    if name not in SHAPES:
        raise ModelError(f"no shape {name!r}; shapes: {', '.join(SHAPES)}")


def build(name: str, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """A sequence classifier of a named shape, its weights random and the same for a seed.

    Raises:
        ModelError: there is no shape of this name.
    """
    check(name)
    config = AutoConfig.for_model(**SHAPES[name], num_labels=2)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    return model
