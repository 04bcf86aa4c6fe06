"""Tokenize texts, and count the tokens that truncation removes."""

from __future__ import annotations

from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Columns, Processor


def tokenize(
    tokenizer: PreTrainedTokenizerBase, *texts: list[str], max_length: int, **options: Any
) -> tuple[BatchEncoding, Columns]:
    """Tokenize one text a row, or pairs, and truncate each row at its end.

    Returns:
        The encoded rows; and the columns `length`, tokens of a row, and `num_truncated`, tokens
        that it lost.
    """
    encoded = tokenizer(*texts, verbose=False, **options)
    full_lengths = [len(ids) for ids in encoded["input_ids"]]
    if max(full_lengths) > max_length:
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, **options)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    lost = [full - kept for full, kept in zip(full_lengths, lengths, strict=True)]
    return encoded, {"length": lengths, "num_truncated": lost}


def require_fast_tokenizer(processor: Processor, kind: str) -> None:
    """Check that the tokenizer returns the characters that each token covers.

    Raises:
        ConfigError: it does not.
    """
    if not getattr(processor, "is_fast", False):
        raise ConfigError(
            f"data.kind {kind} needs a model.name with a fast tokenizer, which returns the "
            f"characters that each token covers; {type(processor).__name__} does not"
        )
