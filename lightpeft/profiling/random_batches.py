"""What kind of model one is, which phases it is measured in, and random batches for it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.errors import ModelError

ModelKind = Literal["encoder", "decoder", "seq2seq", "image"]

# In the order of a table; `prefill` and `decode` are what generation is made of.
PHASES: dict[ModelKind, tuple[str, ...]] = {
    "encoder": ("training", "inference"),
    "decoder": ("training", "prefill", "decode"),
    "seq2seq": ("training", "prefill", "decode"),
    "image": ("training", "inference"),
}

SPAN_LABELS = ("start_positions", "end_positions")  # the labels of extractive question answering


def model_kind(model: PeftModel) -> ModelKind:
    """What a model is fed, by its class."""
    if model.can_generate():
        return "seq2seq" if model.config.is_encoder_decoder else "decoder"
    return "image" if model.main_input_name == "pixel_values" else "encoder"


def list_phases(model: PeftModel) -> tuple[str, ...]:
    """The phases that a model is measured in."""
    return PHASES[model_kind(model)]


def make_random_batch(model: PeftModel, *, rows: int, length: int) -> dict[str, Tensor]:
    """Rows of `length` random tokens without padding, on the model's device, with labels.

    Labels are a class a row for encoders, or one a token, or where an answer begins and ends, as
    the head asks; and `length` tokens where the model generates: of a decoder the same as go in,
    of an encoder-decoder as many on either side. Images have the size that the model was made for,
    and `length` must be the tokens that this makes. For models of multiple choice the rows are the
    choices of one question.

    Raises:
        ModelError: the model takes no rows of this length.
    """
    generator = torch.Generator().manual_seed(rows)
    kind = model_kind(model)
    # Models of texts and images keep what texts need in a config of its own.
    config = model.config if kind == "image" else model.config.get_text_config()
    limit = max_sequence_length(config, kind)
    if limit is not None and length > limit:
        raise ModelError(f"benchmark.length must be at most {limit} for this model, got {length}")
    batch = _make_image_batch if kind == "image" else _make_text_batch
    found = batch(config, rows, length, generator)
    if kind == "decoder":
        found["labels"] = found["input_ids"]
    elif kind == "seq2seq":
        found["labels"] = _make_text_batch(config, rows, length, generator)["input_ids"]
    elif _is_multiple_choice(model):
        found = {name: tensor[None] for name, tensor in found.items()}
        found["labels"] = torch.zeros(1, dtype=torch.int64)
    head = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
    if head.endswith("ForTokenClassification"):
        found["labels"] = torch.zeros_like(found["input_ids"])
    elif head.endswith("ForQuestionAnswering"):
        del found["labels"]
        found |= {name: torch.zeros(rows, dtype=torch.int64) for name in SPAN_LABELS}
    return {name: tensor.to(model.device) for name, tensor in found.items()}


def _is_multiple_choice(model: PeftModel | PreTrainedModel) -> bool:
    """Whether rows are the choices of a question: by the name that transformers gives such."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return type(base).__name__.endswith("ForMultipleChoice")


def max_sequence_length(config: Any, kind: ModelKind) -> int | None:
    """Tokens a row that a model takes at most; None where its config names no limit, as T5's."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    if kind == "decoder":
        return limit - 1  # decode goes one further
    # RoBERTa counts positions from behind the padding token's number.
    return limit - (config.pad_token_id or 0) - 1 if "roberta" in config.model_type else limit


def _make_text_batch(
    config: Any, rows: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    padding = getattr(config, "pad_token_id", None)
    ids = torch.randint(config.vocab_size - 1, (rows, length), generator=generator)
    if padding is not None:
        ids += ids >= padding
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": _make_class_labels(config, rows),
    }


def count_image_tokens(config: Any) -> int:
    """Tokens that a model makes of an image: its patches and one more.

    Raises:
        ModelError: it reads no images, or not in square patches.
    """
    side, patch = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if not isinstance(side, int) or not isinstance(patch, int):
        raise ModelError(f"model type {config.model_type!r} reads no images in square patches")
    return (side // patch) ** 2 + 1


def _make_image_batch(
    config: Any, rows: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    side, tokens = config.image_size, count_image_tokens(config)
    if length != tokens:
        raise ModelError(
            f"benchmark.length must be {tokens} for this model, whose images of "
            f"{side} x {side} are as many tokens, got {length}"
        )
    pixels = torch.randn(rows, config.num_channels, side, side, generator=generator)
    return {"pixel_values": pixels, "labels": _make_class_labels(config, rows)}


def _make_class_labels(config: Any, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.float32 if config.num_labels == 1 else torch.int64)
