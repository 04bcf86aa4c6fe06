"""Tell the kind of a model and its phases, and make random batches for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from accelerate.utils import send_to_device
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightpeft.core.benchmark_result import Phase
from lightpeft.core.errors import ModelError

ModelKind = Literal["encoder", "decoder", "seq2seq", "image"]

# In the order of a table. Generation consists of prefill (the prompt into the KV cache) and
# decode (one more token).
PHASES: dict[ModelKind, tuple[Phase, ...]] = {
    "encoder": ("training", "inference"),
    "decoder": ("training", "prefill", "decode"),
    "seq2seq": ("training", "prefill", "decode"),
    "image": ("training", "inference"),
}

SPAN_LABELS = ("start_positions", "end_positions")  # the labels of extractive question answering


def find_model_kind(model: PeftModel) -> ModelKind:
    """Return the kind of a model, by its class and its main input."""
    if model.can_generate():
        return "seq2seq" if model.config.is_encoder_decoder else "decoder"
    return "image" if model.main_input_name == "pixel_values" else "encoder"


def get_base_model(model: PeftModel | PreTrainedModel) -> PreTrainedModel:
    """Return the model under PEFT modules; one that was trained without any is its own base."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def list_phases(model: PeftModel) -> tuple[Phase, ...]:
    """Return the phases that a model is measured in."""
    return PHASES[find_model_kind(model)]


def make_random_batch(model: PeftModel, *, batch_size: int, length: int) -> dict[str, Tensor]:
    """Return random tokens without padding, with labels, on the model's device.

    Labels follow the model's head: one class a row (of multi-label models none), one class a
    token, or the first and last position of an answer; of a decoder the input tokens, of an
    encoder-decoder as many other tokens. The rows of a multiple-choice model are the choices of one
    question. Images have the size that the model was made for.

    Args:
        model: gives the vocabulary, the padding token and the head.
        batch_size: rows; also the seed, so that all models of a comparison get the same tokens.
        length: tokens a row; of images exactly the number of their patches and one.

    Returns:
        Keyword arguments of the model: `input_ids`, `attention_mask` of shape
        ``(batch_size, length)``, or `pixel_values`; and labels.

    Raises:
        ModelError: the model takes no rows of this length.
    """
    generator = torch.Generator().manual_seed(batch_size)
    kind = find_model_kind(model)
    # Models of texts and images have a config for each.
    config = model.config if kind == "image" else model.config.get_text_config()
    limit = find_max_batch_length(config, kind)
    if limit is not None and length > limit:
        raise ModelError(f"benchmark.length must be at most {limit} for this model, got {length}")
    make_batch = _make_image_batch if kind == "image" else _make_text_batch
    batch = make_batch(config, batch_size, length, generator)
    head = type(get_base_model(model)).__name__
    if kind == "decoder":
        batch["labels"] = batch["input_ids"]
    elif kind == "seq2seq":
        batch["labels"] = _make_text_batch(config, batch_size, length, generator)["input_ids"]
    elif head.endswith("ForMultipleChoice"):
        batch = {name: tensor[None] for name, tensor in batch.items()}
        batch["labels"] = torch.zeros(1, dtype=torch.int64)
    elif head.endswith("ForTokenClassification"):
        batch["labels"] = torch.zeros_like(batch["input_ids"])
    elif head.endswith("ForQuestionAnswering"):
        del batch["labels"]
        batch |= {name: torch.zeros(batch_size, dtype=torch.int64) for name in SPAN_LABELS}
    return dict(send_to_device(batch, model.device))


def drop_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch without its labels."""
    return {name: x for name, x in batch.items() if name not in ("labels", *SPAN_LABELS)}


def find_max_sequence_length(config: Any) -> int | None:
    """Return how many positions a model has for the tokens of a row.

    Args:
        config: the model's configuration, or that of its text part.

    Returns:
        None where the configuration names no limit (T5, BLOOM, images).
    """
    text = config.get_text_config()
    positions: int | None = getattr(text, "max_position_embeddings", None)
    if positions is not None and "roberta" in text.model_type:
        # RoBERTa numbers positions from behind the padding token's id, so the first are unused.
        return positions - (text.pad_token_id or 0) - 1
    return positions


def find_max_batch_length(config: Any, kind: ModelKind) -> int | None:
    """Return the most tokens a row of a batch; a decode step needs a position for one more."""
    positions = find_max_sequence_length(config)
    return positions - 1 if positions is not None and "decode" in PHASES[kind] else positions


def count_image_tokens(config: Any) -> int:
    """Return the tokens that a model makes of an image: its patches and one for the class.

    Raises:
        ModelError: it reads no images, or not in square patches.
    """
    side, patch = (getattr(config, name, None) for name in ("image_size", "patch_size"))
    if not isinstance(side, int) or not isinstance(patch, int):
        raise ModelError(f"model type {config.model_type!r} reads no images in square patches")
    return (side // patch) ** 2 + 1


def _make_text_batch(
    config: Any, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return tokens other than the padding token, and labels of a text classifier."""
    padding = getattr(config, "pad_token_id", None)
    ids = torch.randint(config.vocab_size - 1, (batch_size, length), generator=generator)
    if padding is not None:
        ids += ids >= padding
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": _make_class_labels(config, batch_size),
    }


def _make_image_batch(
    config: Any, batch_size: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return images of the model's size and labels; refuses another `length` than theirs."""
    side, tokens = config.image_size, count_image_tokens(config)
    if length != tokens:
        raise ModelError(
            f"benchmark.length must be {tokens} for this model, because its images of "
            f"{side} x {side} have {tokens} tokens, got {length}"
        )
    pixels = torch.randn(batch_size, config.num_channels, side, side, generator=generator)
    return {"pixel_values": pixels, "labels": _make_class_labels(config, batch_size)}


def _make_class_labels(config: Any, batch_size: int) -> Tensor:
    """Return class 0 for each row, 0.0 for a regression, or no class for multi-label models."""
    if config.problem_type == "multi_label_classification":
        return torch.zeros(batch_size, config.num_labels)
    return torch.zeros(batch_size, dtype=torch.float32 if config.num_labels == 1 else torch.int64)
