"""Whether a model has an embedding for each token that it is to read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PretrainedConfig

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Processor, Task


def count_token_embeddings(config: PretrainedConfig) -> int | None:
    """Return how many tokens all of a model's text parts have embeddings for; None: no such part.

    Raises:
        ConfigError: the padding token of config.json is not among them.
    """
    parts = [
        config.get_text_config(**which) for which in ({}, {"encoder": True}, {"decoder": True})
    ]
    names = ("vocab_size", "decoder_vocab_size")
    sizes = [size for part in parts for name in names if (size := getattr(part, name, None))]
    limit = min(sizes, default=None)
    for part in parts:
        for key in ("pad_token_id", "decoder_start_token_id"):
            token = getattr(part, key, None)
            if limit and isinstance(token, int) and token >= limit:
                raise ConfigError(
                    f"model.name has {limit} token embeddings, but {key} {token} in config.json"
                )
    return limit


def check_special_tokens(processor: Processor, limit: int | None, *, model: str) -> None:
    """Check that a model has embeddings for the tokens that begin, end and pad texts.

    Args:
        processor: tokenizer, or image processor, which has no such tokens.
        limit: tokens that the model has embeddings for.
        model: name, for messages.

    Raises:
        ConfigError: it has not; names both numbers.
    """
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        _check_id(getattr(processor, name, None), processor, limit, model=model, where=name)


def check_token_ids(
    rows: Dataset, task: Task, processor: Processor, limit: int | None, *, split: str
) -> None:
    """Check that a model has embeddings for all tokens of encoded rows, those in evaluation too.

    A tokenizer may be larger than the embeddings, if no row has such a token.

    Raises:
        ConfigError: names both numbers, and the token.
    """
    model = task.card.model.name
    for name in task.token_columns:
        for part in rows.data.column(name).chunks:
            while pa.types.is_list(part.type) or pa.types.is_large_list(part.type):
                part = pc.list_flatten(part)
            _check_id(pc.max(part).as_py(), processor, limit, model=model, where=split)
    if split == "train" or not task.token_columns or limit is None:
        return
    if max(processor.get_vocab().values()) >= limit:
        for place, ids in task.find_unstored_tokens(rows, processor):
            where = f"{split}, {place}"
            _check_id(max(ids, default=None), processor, limit, model=model, where=where)


def _check_id(
    token: int | None, processor: Processor, limit: int | None, *, model: str, where: str
) -> None:
    if token is not None and limit is not None and token >= limit:
        size = len(processor)
        raise ConfigError(
            f"model.name {model} has {limit} token embeddings, its tokenizer {size} tokens: none "
            f"for {processor.convert_ids_to_tokens(token)!r} ({where}: {token}); save the model "
            f"again after model.resize_token_embeddings({size})"
        )
