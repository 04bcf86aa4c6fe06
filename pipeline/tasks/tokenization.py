"""Tokenize texts, and count the tokens that truncation removes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from transformers import BatchEncoding, PreTrainedTokenizerBase

from pipeline.common.errors import ConfigError
from pipeline.tasks.base import Columns, Processor

T = TypeVar("T")


def map_groups(keys: Sequence[Hashable], function: Callable[[list[int]], Sequence[T]]) -> list[T]:
    """Call a function with the row numbers of each key; return its results in the rows' order."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    results: dict[int, T] = {}
    for numbers in groups.values():
        results |= zip(numbers, function(numbers), strict=True)
    return [results[number] for number in range(len(keys))]


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


def require_fast_tokenizer(processor: Processor, kind: str, *, purpose: str) -> None:
    """Check that the tokenizer returns the characters that each token covers.

    Raises:
        ConfigError: it does not; names the purpose.
    """
    if not getattr(processor, "is_fast", False):
        raise ConfigError(
            f"data.kind {kind} needs a model.name with a fast tokenizer, which returns the "
            f"characters that each token covers, to {purpose}; {type(processor).__name__} does not"
        )
